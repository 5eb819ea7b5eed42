package nfsroot

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/freejail/freejail/internal/mount"
)

// Health is how a mount is. The zero value is healthy.
type Health struct {
	Server string
	Fault  string // away, stale, refused, error; empty is healthy
	Text   string // for people
	Since  time.Time
}

// OK means that nothing is known to be wrong.
func (h Health) OK() bool { return h.Fault == "" }

// Status is one mount of the host.
type Status struct {
	Server, Digest string
	Holders        []string
	Health         Health
}

// List returns the host's mounts.
func (m *Mounts) List() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Status
	for _, s := range m.list {
		st := Status{Server: s.Server, Digest: s.Digest, Health: s.health}
		for h := range s.holders {
			st.Holders = append(st.Holders, h)
		}
		out = append(out, st)
	}
	return out
}

// Of is the health of a holder's mount, and whether it has one.
func (m *Mounts) Of(holder string) (Health, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.of(holder)
	if s == nil {
		return Health{}, false
	}
	h := s.health
	h.Server = s.Server
	return h, true
}

// of finds a holder's mount. The caller holds the lock.
func (m *Mounts) of(holder string) *shared {
	for _, s := range m.list {
		if _, has := s.holders[holder]; has {
			return s
		}
	}
	return nil
}

// Stuck counts the mounts whose server keeps a look at them waiting.
func (m *Mounts) Stuck() int {
	n := 0
	for _, s := range m.List() {
		if s.Health.Fault == faultAway {
			n++
		}
	}
	return n
}

const (
	faultAway    = "away"
	faultStale   = "stale"
	faultRefused = "refused"
	faultError   = "error"
)

// watch looks at a mount until it is taken down. One look at a time is under
// way: a server that is away costs one thread.
func (m *Mounts) watch(s *shared) {
	tick := time.NewTicker(m.cfg.Every)
	defer tick.Stop()
	looked := make(chan error, 1)
	looking := false
	var began time.Time
	for {
		var err error
		ended := false
		select {
		case err = <-looked:
			looking, ended = false, true
		case <-tick.C:
		}
		m.mu.Lock()
		over := s.down
		m.mu.Unlock()
		switch {
		case over: // what is said of a mount that was given up means nothing
			return
		case ended:
			m.judge(s, faultOf(err), err)
		case !looking:
			looking, began = true, time.Now()
			go func() { looked <- m.do.probe(s.target()) }()
		case time.Since(began) >= m.cfg.Options.Timeout:
			m.judge(s, faultAway, nil)
		}
	}
}

func faultOf(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, syscall.ESTALE) || errors.Is(err, syscall.ENOENT):
		return faultStale
	case errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM):
		return faultRefused
	case errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, syscall.EINTR):
		return faultAway
	}
	return faultError
}

// judge tells a change of a mount's health to who wants to know.
func (m *Mounts) judge(s *shared, fault string, err error) {
	m.mu.Lock()
	if s.health.Fault == fault {
		m.mu.Unlock()
		return
	}
	s.health = Health{Server: s.Server, Fault: fault, Since: time.Now()}
	switch fault {
	case "":
		s.health.Text = "the server of its root answers again"
	case faultAway:
		s.health.Text = fmt.Sprintf("the server of its root, %s, has not answered for %s: running tasks go on when "+
			"it is back", s.Server, m.cfg.Options.Timeout)
	case faultStale:
		s.health.Text = fmt.Sprintf("its root was removed or replaced on %s (ESTALE): its tasks will not recover, "+
			"start them again", s.Server)
	case faultRefused:
		s.health.Text = fmt.Sprintf("%s does not export its root to this host any more: %v", s.Server, err)
	default:
		s.health.Text = fmt.Sprintf("its root cannot be read from %s: %v", s.Server, err)
	}
	h := s.health
	var holders []string
	for name := range s.holders {
		holders = append(holders, name)
	}
	m.mu.Unlock()
	if m.cfg.Told != nil && len(holders) > 0 {
		m.cfg.Told(holders, h)
	}
}

func (*kernel) mount(ctx context.Context, src *Source, dir, target string, o Options) error {
	return mountSource(ctx, src, dir, target, o)
}

func (k *kernel) probe(target string) error { return k.look(target) }

func (k *kernel) abandon(target string) error {
	err := mount.Abandon(target)
	k.interrupt(target)
	return err
}

func (k *kernel) unmount(dir string) error {
	return k.during(filepath.Join(dir, pointDir), func() error { return mount.ForceUnder(dir) })
}

func (*kernel) mounted(target string) (bool, error) {
	list, err := mount.Below(target)
	return len(list) > 0, err
}
