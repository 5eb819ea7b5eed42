package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/policy"
)

// inForce is what one reading of the host's file says: the policy and the
// signers that it names are of one version.
type inForce struct {
	policy  *policy.Policy
	remotes *remotes
}

// policyHolder keeps what is in force. A faulty file leaves the old there, and
// its error beside it.
type policyHolder struct {
	mu   sync.Mutex
	now  *inForce
	file fileID // that was read; none where it could not be
	err  error
}

func (h *policyHolder) get() (*policy.Policy, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.now == nil {
		return nil, h.err
	}
	return h.now.policy, h.err
}

// openPolicy reads the policy at start, when there is no older one to keep.
func (d *Daemon) openPolicy() (err error) {
	if d.cfg.Path != "" {
		return d.reloadPolicy()
	}
	d.policy.now, err = parseInForce(d.cfg, "defaults", nil)
	return err
}

func parseInForce(c Config, name string, src []byte) (*inForce, error) {
	p, err := policy.Parse(name, src, newRuleIndex)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p.OnHost(chain)
	from, err := newRemotes(c)
	return &inForce{p, from}, err
}

// reloadPolicy reads the host's file again. The old policy stays in force if
// the file has a mistake.
func (d *Daemon) reloadPolicy() error {
	if d.cfg.Path == "" {
		return nil
	}
	if _, _, err := d.follow(true); err != nil {
		return client.Invalid("%v", err)
	}
	return nil
}

// follow reads the host's file if it has changed, or anyway. An error is news
// once.
func (d *Daemon) follow(anyway bool) (now *inForce, news bool, err error) {
	h := &d.policy
	h.mu.Lock()
	defer h.mu.Unlock()
	if id, err := identify(d.cfg.Path); err == nil && id == h.file && !anyway {
		return h.now, false, h.err
	}
	src, id, err := readConfig(d.cfg.Path)
	h.file = id
	var c Config
	if err == nil {
		c, err = parseConfig(d.cfg.Path, src)
	}
	if err == nil {
		now, err = parseInForce(c, d.cfg.Path, src)
	}
	if err == nil {
		h.now, h.err = now, nil
		return h.now, false, nil
	}
	if h.now != nil {
		err = fmt.Errorf("the policy of before stays in force: %w", err)
	}
	news = h.err == nil || h.err.Error() != err.Error()
	h.err = err
	if news || anyway {
		d.metrics.reloadFailed()
		d.log.Error("policy", "error", err)
	}
	return h.now, news, err
}

// inForce follows changes of the file without being told.
func (d *Daemon) inForce() *inForce {
	if d.cfg.Path == "" {
		return d.policy.now
	}
	now, news, err := d.follow(false)
	if news {
		d.event("", "policy", err.Error())
	}
	return now
}

// decide asks the policy about a task's requests.
func (d *Daemon) decide(spec client.TaskSpec, img *image.Image, reqs []policy.Request) error {
	s, dec, err := d.decision(spec, img, reqs)
	if err != nil {
		return err
	}
	d.metrics.decided(dec)
	if dec.Allowed {
		return nil
	}
	wire := wireDecision(s, dec)
	return &client.Error{Code: client.CodeRefused, Message: printable.Error(dec.Err(s)), Decision: &wire}
}

func (d *Daemon) decision(spec client.TaskSpec, img *image.Image, reqs []policy.Request) (s policy.Subject, dec policy.Decision, err error) {
	approvals, err := d.approvals()
	if err != nil {
		return s, dec, err
	}
	if err := d.noteExpired(approvals); err != nil { // they are expired all the same, now
		d.log.Warn("that an approval has expired is not recorded", "error", err)
	}
	now := d.inForce()
	if s, err = d.subject(spec, img, now); err != nil {
		return s, dec, err
	}
	return s, now.policy.Decide(s, reqs, approvals), nil
}

// subject is an image of this host. One that is not asked for by a name is denied
// what it is by any of its names here, and needs the signatures of all.
func (d *Daemon) subject(spec client.TaskSpec, img *image.Image, now *inForce) (s policy.Subject, err error) {
	s = subject(spec, img, d.signersOf(img, now))
	if filepath.IsAbs(spec.Image) || strings.HasPrefix(spec.Image, "sha256:") {
		s.Also, err = d.images.Names(img.Digest)
	}
	return s, err
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
