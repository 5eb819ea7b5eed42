package judge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/imagename"
	"github.com/freejail/freejail/policy"
)

// Approve records an operator's word on one digest: on the requests that are
// named, or else on all that the image asks for. What a deny refuses cannot be
// approved.
func (j *Judge) Approve(ctx context.Context, in client.ApproveRequest, by string) (*client.Approval, error) {
	if strings.TrimSpace(in.Why) == "" {
		return nil, client.Invalid("an approval needs a reason: --reason \"...\"")
	}
	if !in.Expires.IsZero() && !in.Expires.After(time.Now()) {
		return nil, client.Invalid("the approval would expire in the past, at %s", in.Expires.Format(time.RFC3339))
	}
	img, err := j.approvable(ctx, in.Image)
	if err != nil {
		return nil, err
	}
	reqs, unasked, err := Approvable(img, in.Requests, in.Unknown)
	if err != nil {
		return nil, err
	}
	if len(reqs) == 0 {
		return nil, client.Invalid("image %s requests nothing that could be approved", img.Name)
	}
	now := j.InForce()
	s, err := j.subject(client.TaskSpec{Image: in.Image}, img, now)
	if err != nil {
		return nil, err
	}
	for _, res := range now.Policy.Decide(s, reqs, nil).Results {
		if res.Denied {
			return nil, client.Invalid("%s is %s: a deny cannot be approved", res.Request, res.Reason)
		}
	}
	a := policy.Approval{Digest: img.Digest.String(), Image: img.Name, Requests: reqs,
		By: by, Why: in.Why, At: time.Now(), Expires: in.Expires}
	if a.ID, err = j.Ledger.Approve(a); err != nil {
		return nil, err
	}
	j.Log.Info("approved", "id", a.ID, "image", img.Name, "digest", a.Digest, "by", a.By, "why", in.Why)
	wire := wireApproval(a)
	wire.Unasked = unasked
	return &wire, nil
}

// Approvable are the requests with these keys, or without any all that an image has. A request for what is not known is
// refused, unless the image itself or accepted has its name. Unasked are the keys that the image does not ask for, as
// those of a job's own requests.
func Approvable(img *image.Image, keys, accepted []string) (reqs []policy.Request, unasked []string, err error) {
	own, err := task.Requests(img)
	if err != nil || len(keys) == 0 {
		return own, nil, err
	}
	if reqs, err = parseKeys(keys); err != nil {
		return nil, nil, err
	}
	for _, r := range reqs {
		if slices.ContainsFunc(own, func(o policy.Request) bool { return o.Key() == r.Key() }) {
			continue
		}
		if err := checkKnown(r, accepted); err != nil {
			return nil, nil, client.Invalid("request %q: %v", r.Key(), err)
		}
		unasked = append(unasked, r.Key())
	}
	return reqs, unasked, nil
}

// checkKnown refuses what no task can have, most often as it is misspelt.
func checkKnown(r policy.Request, accepted []string) (err error) {
	kind, name, value := r.Form()
	switch kind {
	case "allow", "jail":
		bare := strings.TrimPrefix(name, "allow.")
		if err = image.CheckJailParameter(name); err != nil && !slices.Contains(accepted, bare) {
			return fmt.Errorf("%w; if a newer kernel or a module has it: --unknown-parameter %s", err, bare)
		}
		return nil
	case "sysvipc":
		err = task.CheckSysVIPC(name, value)
	case "mount":
		fstype, _, _ := strings.Cut(value, ",")
		fstype, _, _ = strings.Cut(fstype, ":")
		err = task.CheckMountType(fstype)
	}
	return err
}

// approvable finds an image by its name, digest, or NAME@DIGEST, of which the
// digest alone counts: a name may be another image's by now.
func (j *Judge) approvable(ctx context.Context, ref string) (*image.Image, error) {
	name, digest, pinned := strings.Cut(ref, "@sha256:")
	if pinned {
		ref = "sha256:" + digest
	}
	img, err := j.Images.Resolve(ctx, client.TaskSpec{Image: ref})
	if client.IsNotFound(err) && j.Remote { // it may have its root there alone
		remote, rerr := j.Tasks.FindRemote(ctx, client.TaskSpec{Image: ref})
		if !client.IsNotFound(rerr) {
			return remote, rerr
		}
	}
	if err == nil && pinned && name != "" {
		err = j.checkNamed(name, img)
	}
	return img, err
}

// checkNamed refuses the digest of an image that has other names alone than the repository which is given with it: one
// of them is a mistake.
func (j *Judge) checkNamed(name string, img *image.Image) error {
	of, own := imagename.Canonical(imagename.Repository(name)), ""
	for i, err := range j.Images.Store.All() {
		if err != nil || i.Digest != img.Digest || i.Name == "" {
			continue
		}
		if own = i.Name; imagename.Canonical(imagename.Repository(own)) == of {
			return nil
		}
	}
	if own == "" {
		return nil // it has no name any more
	}
	named := "not on this host"
	if other, err := j.Images.Get(name); err == nil {
		named = other.Digest.String()
	}
	return client.Invalid("%s is %s, and the digest %s is that of %s: which of them is meant? Nothing was approved",
		name, named, img.Digest, own)
}

func parseKeys(keys []string) ([]policy.Request, error) {
	var out []policy.Request
	for _, k := range keys {
		what, err := policy.ParseKey(k)
		if err != nil {
			return nil, client.Invalid("%v", err)
		}
		if d, is := what.(policy.Devfs); is {
			if d.Rule, err = devfs.ParseRule(d.Rule.String()); err != nil {
				return nil, client.Invalid("%v", err)
			}
			what = d
		}
		out = append(out, policy.Request{Privilege: what})
	}
	return out, nil
}

func wireApproval(a policy.Approval) client.Approval {
	out := client.Approval{ID: a.ID, Approver: a.Approver, Digest: a.Digest, Image: a.Image, By: a.By, Why: a.Why,
		At: a.At, Expires: a.Expires,
		Expired: a.Expired(time.Now()), Requests: []string{}}
	for _, r := range a.Requests {
		out.Requests = append(out.Requests, r.Key())
	}
	return out
}

// Approvals are those of this host that were not revoked, and those of a fleet beside its
// images.
func (j *Judge) Approvals() ([]client.Approval, error) {
	list, err := j.Ledger.Approvals()
	out := []client.Approval{}
	for _, a := range list {
		out = append(out, wireApproval(a))
	}
	fleet, ferr := j.fleetApprovals()
	return append(out, fleet...), errors.Join(err, ferr)
}

// ApprovalLog is everything that was ever approved and revoked, in its order.
func (j *Judge) ApprovalLog() ([]client.ApprovalRecord, error) {
	list, err := j.Ledger.Records()
	out := []client.ApprovalRecord{}
	for _, r := range list {
		out = append(out, client.ApprovalRecord{Action: r.Action, Approval: wireApproval(r.Approval),
			By: r.By, At: r.At, Why: r.Why})
	}
	return out, err
}

// Revoke withdraws an approval by its id, or all of a digest, given as such, as
// NAME@DIGEST, or by an image's name. It returns what was revoked.
func (j *Judge) Revoke(ref, why, by string) (done []client.Approval, err error) {
	digest := ref
	if i := strings.LastIndex(ref, "@sha256:"); i >= 0 {
		digest = ref[i+1:]
	} else if img, err := j.Images.Get(ref); err == nil {
		digest = img.Digest.String()
	} else if !errors.Is(err, image.ErrNotFound) {
		return nil, err
	}
	list, err := j.Ledger.Approvals()
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		if a.ID != ref && a.Digest != digest {
			continue
		}
		if err := j.Ledger.Revoke(a, by, why); err != nil {
			return done, err
		}
		done = append(done, wireApproval(a))
		j.Log.Info("approval revoked", "id", a.ID, "image", a.Image, "digest", a.Digest, "by", by, "why", why)
		j.tellRevoked(a, by)
	}
	if len(done) == 0 {
		return nil, client.NotFound("there is no approval of this host for %q; see `freejail policy list` "+
			"(one of a fleet is revoked by its approver, or denied by this host's policy)", ref)
	}
	return done, nil
}

// tellRevoked tells the owners of tasks that run by a revoked approval.
func (j *Judge) tellRevoked(a policy.Approval, by string) {
	for _, t := range j.Tasks.Alive() {
		if t.Digest == a.Digest {
			j.tellTaskRevoked(t, a, by)
		}
	}
}

func (j *Judge) tellTaskRevoked(t client.Task, a policy.Approval, by string) {
	j.Tasks.Event(t.Spec.ID, "policy", fmt.Sprintf("the approval %s of what image %s asks for was revoked by %s: "+
		"the task runs on, but a new start is refused unless the host's policy permits it", a.ID, a.Image, by))
}
