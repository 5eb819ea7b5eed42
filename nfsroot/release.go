package nfsroot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Release lets go of a holder's mount, and takes down one that is of no use any
// more. No mount is no error.
func (m *Mounts) Release(holder string) error {
	var errs []error
	for _, s := range m.snapshot() {
		m.mu.Lock()
		_, has := s.holders[holder]
		if has {
			errs = append(errs, m.drop(s, holder))
		}
		gone := has && len(s.holders) == 0 && (s.down || !s.health.OK() || m.cfg.Keep == 0)
		m.mu.Unlock()
		if gone {
			errs = append(errs, m.takeDown(s))
		}
	}
	return errors.Join(errs...)
}

// During runs what may wait for the server of a holder's mount, on a thread that
// is woken when the mount is given up.
func (m *Mounts) During(holder string, do func() error) error {
	m.mu.Lock()
	s := m.of(holder)
	m.mu.Unlock()
	if s == nil {
		return do()
	}
	return m.do.during(s.target(), do)
}

// Leave tells that a holder is about to go. When nobody else stays on a mount
// whose server is away, whoever waits for it there gets an error.
func (m *Mounts) Leave(holder string) error { return m.leave(holder, false) }

// Abandon is Leave for a holder that has waited long enough, whatever is known
// of the server.
func (m *Mounts) Abandon(holder string) error { return m.leave(holder, true) }

func (m *Mounts) leave(holder string, impatient bool) error {
	m.mu.Lock()
	var s *shared
	for _, c := range m.list {
		if _, has := c.holders[holder]; has {
			c.holders[holder] = false
			s = c
		}
	}
	give := s != nil && (impatient || !s.health.OK())
	if s != nil {
		for _, stays := range s.holders {
			give = give && !stays
		}
	}
	if give {
		s.down = true
	}
	m.mu.Unlock()
	if !give {
		return nil
	}
	return m.do.abandon(s.target())
}

// takeTime is how long who asks waits for a mount to be taken down. The rest is
// done when the kernel lets us.
const takeTime = 10 * time.Second

// takeDown unmounts and forgets a mount that nobody has.
func (m *Mounts) takeDown(s *shared) error {
	m.mu.Lock()
	select {
	case <-s.ready:
	default: // mountIt will take it down
		s.down = true
		m.mu.Unlock()
		return nil
	}
	if len(s.holders) > 0 || !slices.Contains(m.list, s) {
		m.mu.Unlock()
		return nil
	}
	s.down = true
	m.list = slices.DeleteFunc(m.list, func(o *shared) bool { return o == s })
	healthy := s.health.OK()
	m.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		var err error
		if !healthy {
			err = m.do.abandon(s.target())
		}
		if err = errors.Join(err, m.do.unmount(s.dir)); err == nil {
			err = s.forget()
		}
		if err != nil { // Tick tries again
			m.mu.Lock()
			m.list = append(m.list, s)
			m.mu.Unlock()
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(takeTime):
		return fmt.Errorf("nfs: %s is not unmounted yet: the kernel waits for its server", s.Server)
	}
}

// forget removes what is noted. It never descends into the mount point.
func (s *shared) forget() error {
	if err := os.RemoveAll(filepath.Join(s.dir, holdersDir)); err != nil {
		return err
	}
	for _, p := range []string{s.target(), filepath.Join(s.dir, notedFile), s.dir} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Tick takes down what nobody wants any more.
func (m *Mounts) Tick() error {
	var errs []error
	for _, s := range m.snapshot() {
		m.mu.Lock()
		over := len(s.holders) == 0 && (s.down || !s.health.OK() || time.Since(s.idle) >= m.cfg.Keep)
		m.mu.Unlock()
		if over {
			errs = append(errs, m.takeDown(s))
		}
	}
	return errors.Join(errs...)
}

// Close takes down what nobody has. Mounts with holders stay for the next
// daemon.
func (m *Mounts) Close() error {
	var errs []error
	for _, s := range m.snapshot() {
		errs = append(errs, m.takeDown(s))
	}
	return errors.Join(errs...)
}
