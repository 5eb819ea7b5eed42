package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/imagename"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/policy"
)

// inForce follows changes of the host's file without being told.
func (d *Daemon) inForce() *host.InForce {
	now, news := d.follower.Follow()
	if news != nil {
		d.event("policy", news.Error())
	}
	return now
}

// judge is the policy as tasks have it.
type judge struct{ d *Daemon }

// Decide asks the policy about a task's requests.
func (j judge) Decide(spec client.TaskSpec, img *image.Image, reqs []policy.Request) error {
	s, dec, err := j.Decision(spec, img, reqs)
	if err != nil {
		return err
	}
	j.d.metrics.Decided(dec)
	if dec.Allowed {
		return nil
	}
	wire := wireDecision(s, dec)
	return &client.Error{Code: client.CodeRefused, Message: printable.Error(dec.Err(s)), Decision: &wire}
}

// Check decides about a whole task as its start would.
func (j judge) Check(ctx context.Context, spec client.TaskSpec) (*client.Decision, error) {
	s, dec, err := j.d.tasks.Check(ctx, spec)
	if err != nil {
		return nil, err
	}
	wire := wireDecision(s, dec)
	return &wire, nil
}

// Reload reads the host's file again.
func (j judge) Reload() error { return j.d.follower.Reload() }

func (j judge) Denies(s policy.Subject, kind policy.Kind) bool {
	return j.d.inForce().Policy.Denies(s, kind)
}

func (j judge) Decision(spec client.TaskSpec, img *image.Image, reqs []policy.Request) (
	s policy.Subject, dec policy.Decision, err error) {
	d := j.d
	approvals, err := d.ledger.Approvals()
	if err != nil {
		return s, dec, err
	}
	expired, err := d.ledger.Expire(approvals)
	for _, a := range expired {
		d.log.Info("approval expired", "id", a.ID, "image", a.Image, "digest", a.Digest, "at", a.Expires)
	}
	if err != nil { // they are expired all the same, now
		d.log.Warn("that an approval has expired is not recorded", "error", err)
	}
	now := d.inForce()
	if s, err = d.subject(spec, img, now); err != nil {
		return s, dec, err
	}
	return s, now.Policy.Decide(s, reqs, approvals), nil
}

// subject is an image of this host. One that is not asked for by a name is denied
// what it is by any of its names here, and needs the signatures of all.
func (d *Daemon) subject(spec client.TaskSpec, img *image.Image, now *host.InForce) (s policy.Subject, err error) {
	s = subject(spec, img, d.images.Signers(img, now))
	if filepath.IsAbs(spec.Image) || strings.HasPrefix(spec.Image, "sha256:") {
		s.Also, err = d.images.Store.Names(img.Digest)
	}
	return s, err
}

func subject(spec client.TaskSpec, img *image.Image, signers []string) policy.Subject {
	return policy.Subject{Image: img.Name, Repository: imagename.Repository(img.Name), Digest: img.Digest.String(),
		Signers: signers, Namespace: spec.Labels["namespace"], Job: spec.Labels["job"]}
}

func wireDecision(s policy.Subject, dec policy.Decision) client.Decision {
	out := client.Decision{Image: s.Image, Digest: s.Digest, Signers: s.Signers, Allowed: dec.Allowed,
		Results: []client.Result{}, Approve: dec.ApproveCommand(s)}
	for _, r := range dec.Results {
		out.Results = append(out.Results, client.Result{Request: r.Request.String(), Kind: string(r.Kind()), Key: r.Key(),
			Source: string(r.Request.Source), Allowed: r.Allowed, Reason: r.Reason, Permit: r.Permit})
	}
	return out
}

// CheckImage decides about an archive's or layout's requests by a policy file,
// on any system and without a daemon: approvals are not known there, signatures
// count that lie in the archive, if their key is here. An empty file is a host without a policy.
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
	s := subject(client.TaskSpec{}, img, signers)
	wire := wireDecision(s, p.Decide(s, reqs, nil))
	return &wire, nil
}
