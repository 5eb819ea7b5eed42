package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/policy"
)

// policyHolder keeps the policy in force. A faulty file leaves the old one
// there, and its error beside it.
type policyHolder struct {
	mu      sync.Mutex
	policy  *policy.Policy
	remotes *remotes
	file    fileID
	err     error
}

func (h *policyHolder) get() (*policy.Policy, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.policy, h.err
}

// openPolicy reads the policy at start, when there is no older one to keep.
func (d *Daemon) openPolicy() error {
	if d.cfg.Path == "" {
		p, err := policy.Parse("defaults", nil, newRuleIndex)
		d.policy.policy = p
		if err == nil {
			d.policy.remotes, err = newRemotes(d.cfg)
		}
		return err
	}
	return d.reloadPolicy()
}

// reloadPolicy reads the host's file again. The old policy stays in force if
// the file has a mistake.
func (d *Daemon) reloadPolicy() error {
	if d.cfg.Path == "" {
		return nil
	}
	id, err := identify(d.cfg.Path)
	var p *policy.Policy
	if err == nil {
		p, err = LoadPolicy(d.cfg.Path)
	}
	if err == nil {
		p.OnHost(chain)
	}
	h := &d.policy
	h.mu.Lock()
	defer h.mu.Unlock()
	var from *remotes
	if err == nil {
		from, err = loadRemotes(d.cfg.Path)
	}
	h.file, h.err = id, err
	if err == nil {
		h.policy, h.remotes = p, from
		return nil
	}
	d.metrics.reloadFailed()
	if h.policy != nil {
		h.err = fmt.Errorf("the policy of before stays in force: %w", err)
		d.log.Error("policy", "error", h.err)
	}
	return invalid("%v", h.err)
}

// currentPolicy follows changes of the file without being told.
func (d *Daemon) currentPolicy() *policy.Policy {
	if d.cfg.Path != "" {
		id, err := identify(d.cfg.Path)
		d.policy.mu.Lock()
		changed := err != nil || id != d.policy.file
		d.policy.mu.Unlock()
		if changed {
			if err := d.reloadPolicy(); err != nil {
				d.event("", "policy", err.Error())
			}
		}
	}
	p, _ := d.policy.get() // its error was told when it arose
	return p
}

// decide asks the policy about a task's requests.
func (d *Daemon) decide(spec client.TaskSpec, img *image.Image, reqs []policy.Request) error {
	dec, err := d.decision(spec, img, reqs)
	if err != nil {
		return err
	}
	d.metrics.decided(dec)
	if dec.Allowed {
		return nil
	}
	s := d.subject(spec, img)
	wire := wireDecision(s, dec)
	return &client.Error{Code: client.CodeRefused, Message: printable.Error(dec.Err(s)), Decision: &wire}
}

func (d *Daemon) decision(spec client.TaskSpec, img *image.Image, reqs []policy.Request) (policy.Decision, error) {
	approvals, err := d.approvals()
	if err != nil {
		return policy.Decision{}, err
	}
	return d.currentPolicy().Decide(d.subject(spec, img), reqs, approvals), nil
}

func (d *Daemon) subject(spec client.TaskSpec, img *image.Image) policy.Subject {
	return subject(spec, img, d.signersOf(img))
}

func subject(spec client.TaskSpec, img *image.Image, signers []string) policy.Subject {
	return policy.Subject{Image: img.Name, Repository: policy.RepositoryOf(img.Name), Digest: img.Digest.String(), Signers: signers,
		Namespace: spec.Labels["namespace"], Job: spec.Labels["job"]}
}

func wireDecision(s policy.Subject, dec policy.Decision) client.Decision {
	out := client.Decision{Image: s.Image, Digest: s.Digest, Signers: s.Signers, Allowed: dec.Allowed, Results: []client.Result{}, Approve: dec.ApproveCommand(s)}
	for _, r := range dec.Results {
		out.Results = append(out.Results, client.Result{Request: r.Request.String(), Kind: string(r.Kind), Key: r.Key(), Source: string(r.Request.Source),
			Allowed: r.Allowed, Reason: r.Reason, Permit: r.Permit})
	}
	return out
}

// CheckImage decides about an archive's or layout's requests by a policy file,
// on any system and without a daemon: approvals are not known there, signatures
// count that lie in the archive, if their key is here. An empty file is a host without a policy.
func CheckImage(ctx context.Context, path, file string) (d *client.Decision, err error) {
	var p *policy.Policy
	if file == "" {
		p, err = policy.Parse("defaults", nil, newRuleIndex)
	} else {
		p, err = LoadPolicy(file)
	}
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp("", "freejail-check-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	store, err := image.OpenStore(tmp, image.Limits{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	img, err := store.ImportFor(ctx, path, "", ocispec.Platform{}, nil)
	if err != nil {
		return nil, err
	}
	reqs, err := requestsOf(img)
	if err != nil {
		return nil, err
	}
	keys, err := signersAt(file)
	if err != nil {
		return nil, err
	}
	signers, err := verified(store, img, keys)
	if err != nil {
		return nil, err
	}
	s := subject(client.TaskSpec{}, img, signers)
	wire := wireDecision(s, p.Decide(s, reqs, nil))
	return &wire, nil
}
