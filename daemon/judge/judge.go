// Package judge decides about what tasks ask for, by the policy that is in force and
// what an operator has approved.
package judge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/approval"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/images"
	"github.com/freejail/freejail/daemon/ledger"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/daemon/telemetry"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/imagename"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/policy"
)

// Judge is the policy of a host with what an operator has approved.
type Judge struct {
	Ledger *ledger.Ledger
	Images *images.Library
	Tasks  Tasks               // to be there before the first request
	Record *telemetry.Recorder // nil where nothing is counted
	Log    hclog.Logger
	Lists  *approval.Lists // of the approvers
	// InForce is what the host's file says now.
	InForce func() *host.InForce
	// Remote is that images may have their roots on other hosts alone.
	Remote bool

	told told
}

// Tasks are those that are decided about; see task.Manager.
type Tasks interface {
	Alive() []client.Task
	Event(id, kind, message string)
	Check(context.Context, client.TaskSpec) (_ policy.Subject, _ policy.Decision, notes []string, err error)
	FindRemote(context.Context, client.TaskSpec) (*image.Image, error)
}

// Decide asks the policy about a task's requests.
func (j *Judge) Decide(spec client.TaskSpec, img *image.Image, reqs []policy.Request) error {
	s, dec, err := j.Decision(spec, img, reqs)
	if err != nil {
		return err
	}
	return j.decided(s, dec, nil)
}

// decided counts a decision, and is the error of one that refuses, with notes.
func (j *Judge) decided(s policy.Subject, dec policy.Decision, notes []string) error {
	j.Record.Decided(dec)
	if dec.Allowed {
		return nil
	}
	message := printable.Error(dec.Err(s))
	if file := j.InForce().File.Path; refusedOnly(dec) && file != "" {
		message += "\nA permit block in " + printable.Flat(file) +
			" permits it for good: `freejail policy check` shows it"
	}
	for _, text := range notes {
		message += "\n" + printable.Flat(text)
	}
	return &client.Error{Code: client.CodeRefused, Message: message, Decision: wireDecision(s, dec)}
}

// Check decides about a whole task as its start would, and about a user who would trace it.
func (j *Judge) Check(ctx context.Context, spec client.TaskSpec, tracer string) (*client.Decision, error) {
	j.prepare(ctx)
	s, dec, notes, err := j.Tasks.Check(ctx, spec)
	if err == nil && refusedOnly(dec) && j.Images.SeekApprovals(ctx, "", s.Image, digest.Digest(s.Digest)) {
		s, dec, notes, err = j.Tasks.Check(ctx, spec)
	}
	if err != nil {
		return nil, err
	}
	list, ferr := j.fleet(digest.Digest(s.Digest), j.InForce())
	if tracer != "" {
		if err := j.checkTracer(s, &dec, tracer, counting(list)); err != nil {
			return nil, err
		}
	}
	d := wireDecision(s, dec)
	d.Notes = slices.Concat(notes, fleetNotes(list, ferr), doubts(j.InForce().Doubt))
	return d, nil
}

// checkTracer adds what is decided about a user of this host, by its approvals and a fleet's.
func (j *Judge) checkTracer(s policy.Subject, dec *policy.Decision, tracer string, fleet []policy.Approval) error {
	u, err := user.Lookup(tracer)
	if err != nil {
		u, err = user.LookupId(tracer)
	}
	if err != nil {
		return client.Invalid("trace: no user %q on this host", tracer)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	approvals, err := j.Ledger.Approvals()
	if err != nil {
		return err
	}
	approvals = append(approvals, fleet...)
	by := task.Operator{User: u.Username, UID: uid, Root: uid == 0}
	for _, r := range j.InForce().Policy.Decide(s, []policy.Request{task.TraceRequest(by)}, approvals).Results {
		if r.Kind() == policy.KindTrace { // signatures that are required are among the task's own results
			dec.Results, dec.Allowed = append(dec.Results, r), dec.Allowed && r.Allowed
		}
	}
	return nil
}

// doubts are what is probably a mistake in the host's file, one by one.
func doubts(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

// Denies tells whether the policy denies anything of a kind.
func (j *Judge) Denies(s policy.Subject, kind policy.Kind) bool {
	return j.InForce().Policy.Denies(s, kind)
}

// Decision decides and counts nothing.
func (j *Judge) Decision(spec client.TaskSpec, img *image.Image, reqs []policy.Request) (
	s policy.Subject, dec policy.Decision, err error) {
	approvals, err := j.Ledger.Approvals()
	if err != nil {
		return s, dec, err
	}
	expired, err := j.Ledger.Expire(approvals)
	for _, a := range expired {
		j.Log.Info("approval expired", "id", a.ID, "image", a.Image, "digest", a.Digest, "at", a.Expires)
	}
	if err != nil { // they are expired all the same, now
		j.Log.Warn("that an approval has expired is not recorded", "error", err)
	}
	now := j.InForce()
	if s, err = j.subject(spec, img, now); err != nil {
		return s, dec, err
	}
	list, err := j.fleet(img.Digest, now)
	if err != nil { // the image then has none
		j.Log.Error("approvals", "image", img.Name, "error", err)
	}
	approvals = append(approvals, counting(list)...)
	return s, now.Policy.Decide(s, reqs, approvals), nil
}

// subject is an image of this host. One that is not asked for by a name is denied
// what it is by any of its names here, and needs the signatures of all.
func (j *Judge) subject(spec client.TaskSpec, img *image.Image, now *host.InForce) (s policy.Subject, err error) {
	s = subject(spec, img, j.Images.Signers(img, now))
	if filepath.IsAbs(spec.Image) || strings.HasPrefix(spec.Image, "sha256:") {
		s.Also, err = j.Images.Store.Names(img.Digest)
	}
	return s, err
}

func subject(spec client.TaskSpec, img *image.Image, signers []string) policy.Subject {
	return policy.Subject{Image: img.Name, Repository: imagename.Repository(img.Name), Digest: img.Digest.String(),
		Signers: signers, Namespace: spec.NomadLabels()["namespace"], Job: spec.NomadLabels()["job"],
		ByHand: spec.Owner == "cli"}
}

// attachedTo are the approvals in an archive by the approvers of a file. Lists of revocations
// are read from files that are here alone, which the notes say.
func attachedTo(ctx context.Context, store *layout.Store, img *image.Image,
	approvers func() ([]host.Approver, error), lists string) (list []attached, notes []string, err error) {
	docs, err := store.Approvals(img.Digest)
	if err != nil || len(docs) == 0 {
		return nil, nil, err
	}
	by, err := approvers()
	if err != nil {
		return nil, nil, err
	}
	known := approval.OpenLists(lists)
	for i, who := range by {
		if _, err := os.Stat(who.From); who.IsFile() && err == nil {
			if _, err := known.Refresh(ctx, who.Source); err != nil {
				notes = append(notes, fmt.Sprintf("approver %s: %v", who.Name, err))
			}
		} else if who.From != "" {
			notes = append(notes, fmt.Sprintf("what approver %s has revoked was not looked at: %s", who.Name, who.From))
			by[i].Keep = true
		}
	}
	return verified(docs, img.Digest, by, func(who host.Approver, a *approval.Approval) error {
		return known.Check(who.Source, a, time.Now())
	}), notes, nil
}

func wireDecision(s policy.Subject, dec policy.Decision) *client.Decision {
	out := &client.Decision{Image: s.Image, Digest: s.Digest, Signers: s.Signers, Allowed: dec.Allowed,
		Results: []client.Result{}, Approve: dec.ApproveCommand(s)}
	if out.Sign = dec.SignCommand(s); out.Sign != "" {
		out.Givers = dec.Givers
	}
	for _, r := range dec.Results {
		out.Results = append(out.Results, client.Result{Request: r.Request.String(), Kind: string(r.Kind()),
			Key: r.Key(), Source: string(r.Request.Source), Allowed: r.Allowed, Reason: r.Reason, Permit: r.Permit})
	}
	return out
}

// CheckImage decides about an archive's or layout's requests by a policy file,
// on any system and without a daemon: approvals of a host are not known there, signatures
// and approvals of a fleet count that lie in the archive, if their key is here. An empty
// file is a host without a policy.
func CheckImage(ctx context.Context, path, file string) (d *client.Decision, err error) {
	p, err := host.LoadPolicy(file)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp("", "freejail-check-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	store, err := layout.OpenStore(tmp, image.Limits{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	approvers := sync.OnceValues(func() ([]host.Approver, error) { return host.ApproversOf(file) })
	store.Trusted = func(d digest.Digest, doc sign.Signature) string {
		by, _ := approvers() // attachedTo tells its error
		return approval.Signer(d, doc, (&host.InForce{Approvers: by}).ApproverKeys())
	}
	img, err := store.ImportFor(ctx, path, "", ocispec.Platform{}, nil)
	if err != nil {
		return nil, err
	}
	reqs, err := task.Requests(img)
	if err != nil {
		return nil, err
	}
	keys, err := host.SignersOf(file)
	if err != nil {
		return nil, err
	}
	signers, err := keys.Of(store, img)
	if err != nil {
		return nil, err
	}
	list, notes, err := attachedTo(ctx, store, img, approvers, filepath.Join(tmp, "lists"))
	if err != nil {
		return nil, err
	}
	s := subject(client.TaskSpec{}, img, signers)
	d = wireDecision(s, p.Decide(s, reqs, counting(list)))
	d.Notes = slices.Concat(task.Notes(img), notCounting(list), notes, doubts(host.PolicyDoubt(file, p)))
	return d, nil
}
