package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/policy"
)

// policyHolder keeps the policy in force. A faulty file leaves the old one
// there, and its error beside it.
type policyHolder struct {
	mu     sync.Mutex
	policy *policy.Policy
	file   fileID
	err    error
}

func (h *policyHolder) get() (*policy.Policy, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.policy, h.err
}

// openPolicy reads the policy at start, when there is no older one to keep.
func (d *Daemon) openPolicy() error {
	if d.cfg.Path == "" {
		p, err := policy.Parse("defaults", nil)
		d.policy.policy = p
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
		_, err = LoadConfig(d.cfg.Path)
	}
	if err == nil {
		p, err = policy.Load(d.cfg.Path)
	}
	h := &d.policy
	h.mu.Lock()
	defer h.mu.Unlock()
	h.file, h.err = id, err
	if err == nil {
		h.policy = p
		return nil
	}
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
func (d *Daemon) decide(img *image.Image, reqs []policy.Request) error {
	dec, err := d.decision(img, reqs)
	if err != nil || dec.Allowed {
		return err
	}
	wire := wireDecision(img, dec)
	return &client.Error{Code: client.CodeRefused, Message: dec.Err(subject(img)).Error(), Decision: &wire}
}

func (d *Daemon) decision(img *image.Image, reqs []policy.Request) (policy.Decision, error) {
	approvals, err := d.approvals()
	if err != nil {
		return policy.Decision{}, err
	}
	return d.currentPolicy().Decide(subject(img), reqs, approvals, containsRule), nil
}

// containsRule lets the policy compare devfs rules without knowing them.
func containsRule(permitted, requested string) (bool, error) {
	p, err := devfs.ParseRule(permitted)
	if err != nil {
		return false, err
	}
	r, err := devfs.ParseRule(requested)
	if err != nil {
		return false, err
	}
	return devfs.Contains(p, r), nil
}

func subject(img *image.Image) policy.Subject {
	return policy.Subject{Image: img.Name, Repository: repository(img.Name), Digest: img.Digest.String()}
}

func repository(name string) string {
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i]
	}
	return name
}

func wireDecision(img *image.Image, dec policy.Decision) client.Decision {
	out := client.Decision{Image: img.Name, Digest: img.Digest.String(), Allowed: dec.Allowed, Results: []client.Result{}}
	for _, r := range dec.Results {
		out.Results = append(out.Results, client.Result{Request: r.Request.String(), Source: string(r.Request.Source), Allowed: r.Allowed, Reason: r.Reason})
	}
	return out
}

func (d *Daemon) handleCheck(r *http.Request) (any, error) {
	var spec client.TaskSpec
	if err := decode(r, &spec); err != nil {
		return nil, err
	}
	img, err := d.resolveImage(r.Context(), spec)
	if err != nil {
		return nil, err
	}
	reqs, err := d.imageRequests(img)
	if err != nil {
		return nil, err
	}
	dec, err := d.decision(img, reqs)
	if err != nil {
		return nil, err
	}
	return wireDecision(img, dec), nil
}

func (d *Daemon) handleApprove(r *http.Request) (any, error) {
	var in client.ApproveRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	return d.approve(r.Context(), in, r.Context().Value(peerKey{}).(int))
}

// approve records an operator's word on what the image asks for now, bound to
// the digest that it has now.
func (d *Daemon) approve(ctx context.Context, in client.ApproveRequest, uid int) (*client.Approval, error) {
	if strings.TrimSpace(in.Why) == "" {
		return nil, invalid("an approval needs a reason: --why \"...\"")
	}
	img, err := d.resolveImage(ctx, client.TaskSpec{Image: in.Image})
	if err != nil {
		return nil, err
	}
	reqs, err := d.imageRequests(img)
	if err != nil {
		return nil, err
	}
	by := fmt.Sprintf("uid %d", uid)
	if in.By != "" {
		by = in.By + " (" + by + ")"
	}
	a := policy.Approval{Digest: img.Digest.String(), Image: img.Name, Requests: reqs, By: by, Why: in.Why, At: time.Now()}
	if err := d.putApproval(a); err != nil {
		return nil, err
	}
	d.log.Info("approved", "image", img.Name, "digest", a.Digest, "by", by, "why", in.Why)
	wire := wireApproval(a)
	return &wire, nil
}

func wireApproval(a policy.Approval) client.Approval {
	out := client.Approval{Digest: a.Digest, Image: a.Image, By: a.By, Why: a.Why, At: a.At, Requests: []string{}}
	for _, r := range a.Requests {
		out.Requests = append(out.Requests, r.String())
	}
	return out
}

func (d *Daemon) listApprovals() ([]client.Approval, error) {
	list, err := d.approvals()
	out := []client.Approval{}
	for _, a := range list {
		out = append(out, wireApproval(a))
	}
	return out, err
}

// revoke takes a digest, or an image whose digest is looked up.
func (d *Daemon) revoke(ref string) error {
	digest := ref
	img, err := d.images.Get(ref)
	if err == nil {
		digest = img.Digest.String()
	} else if !errors.Is(err, image.ErrNotFound) {
		return err
	}
	found, err := d.deleteApproval(digest)
	if err == nil && !found {
		return &client.Error{Code: client.CodeNotFound, Message: fmt.Sprintf("there is no approval for %q; see `freejail policy list`", ref)}
	}
	return err
}

func (d *Daemon) rulesetInfos() []client.Ruleset {
	out := []client.Ruleset{}
	for _, s := range d.rulesets.List() {
		r := client.Ruleset{ID: int(s.ID), Holders: s.Holders}
		for _, rule := range s.Rules {
			r.Rules = append(r.Rules, rule.String())
		}
		out = append(out, r)
	}
	return out
}
