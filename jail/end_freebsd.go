package jail

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// Signal sends a signal to a process of a jail; pid 0 means all of them.
func (m *Manager) Signal(name string, pid int, sig unix.Signal) error {
	s, err := m.find("signal", name)
	if err != nil {
		return err
	}
	mark := func(pid int) {
		if sig == unix.SIGKILL {
			m.procs.markKilled(pid)
		}
	}
	if pid == 0 {
		err = m.signalAll(s.jid, sig, mark)
	} else if _, ours := m.procs.get(pid); ours {
		err = m.signalOne(s.jid, pid, sig, mark)
	} else {
		err = unix.ESRCH
	}
	if err != nil {
		return &Error{Op: "signal", Jail: name, Err: err}
	}
	return nil
}

func (m *Manager) signalOne(jid, pid int, sig unix.Signal, mark func(int)) error {
	p, err := bsd.FindProcess(pid)
	if err != nil {
		return err
	}
	top, err := m.families().top(p.JID())
	if err != nil {
		return err
	}
	if top != jid || p.Zombie() {
		return unix.ESRCH
	}
	mark(pid)
	return unix.Kill(pid, sig)
}

// signalAll passes over the processes of a jail and of those below it until none
// is left that has not had the signal: they may fork meanwhile. What forks faster
// than that is left to Kill.
func (m *Manager) signalAll(jid int, sig unix.Signal, mark func(int)) error {
	had := map[int]bool{}
	for range 100 {
		pids, err := m.livingOf(jid)
		if err != nil {
			return err
		}
		pids = slices.DeleteFunc(pids, func(pid int) bool { return had[pid] })
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			had[pid] = true
			if mark != nil {
				mark(pid)
			}
			if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("process %d: %w", pid, err)
			}
		}
		if sig != unix.SIGKILL {
			break // children of a process that had it are not meant to have it too
		}
	}
	if len(had) == 0 {
		return unix.ESRCH
	}
	return nil
}

// Remove kills a jail's processes and removes it with all that the kernel and
// this package keep for it. When it returns no process is left that could hold
// its root. No jail is no error.
func (m *Manager) Remove(ctx context.Context, name string) error {
	s, err := m.find("remove", name)
	if errors.Is(err, ErrNotFound) {
		var n notes
		_ = n.read(m.noteFile(name)) // without any it had no stack, or its rules went with the host
		return m.forget(name, kernelName(n.Stack, name))
	}
	if err != nil {
		return err
	}
	if err := m.takeAway(name, s); err != nil {
		return &Error{Op: "remove", Jail: name, Err: err}
	}
	if err := m.drain(ctx, s.jid); err != nil {
		return &Error{Op: "remove", Jail: name, Err: err}
	}
	m.mu.Lock()
	delete(m.jails, name)
	m.mu.Unlock()
	return m.forget(name, s.kernel)
}

// Kill kills all processes of a jail, however fast they fork: what SIGKILL alone may
// not do. It does not wait for their ends, and leaves the rest to Remove.
func (m *Manager) Kill(name string) error {
	s, err := m.find("kill", name)
	if err == nil {
		err = m.takeAway(name, s)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return &Error{Op: "kill", Jail: name, Err: err}
	}
	return nil
}

// takeAway has the kernel remove a jail. That kills all processes in it and in those
// below it, and who is being born meanwhile ends before it runs (prison_deref in
// kern/kern_jail.c, fork_return in kern/kern_fork.c).
func (m *Manager) takeAway(name string, s state) error {
	m.mu.Lock()
	if st := m.jails[name]; st != nil {
		st.killed = true
	}
	m.mu.Unlock()
	if s.gone {
		return nil
	}
	return jailRemove(s.jid)
}

// forget removes the rctl rules, which the kernel keeps by name and longer
// than the jail, and the notes.
func (m *Manager) forget(name, kernel string) error {
	if m.racct {
		if _, err := rctl(unix.SYS_RCTL_REMOVE_RULE, "jail:"+kernel); err != nil && !errors.Is(err, unix.ESRCH) {
			return &Error{Op: "remove rctl rules", Jail: name, Err: err}
		}
	}
	if !validName.MatchString(name) {
		return nil // never made by us
	}
	if err := os.RemoveAll(m.noteFile(name)); err != nil { // whatever it is: a damaged one may be a directory
		return &Error{Op: "remove", Jail: name, Err: err}
	}
	return nil
}

// drainTime is how long a killed process may take to die. One that hangs in
// the kernel, on a dead NFS server, takes longer: then Remove is tried again.
const drainTime = 20 * time.Second

func (m *Manager) drain(ctx context.Context, jid int) error {
	deadline := time.Now().Add(drainTime)
	pids := map[int]int{0: jid}
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, 50*time.Millisecond) {
		for _, in := range pids {
			m.reap(in) // of a jail below it too
		}
		// Mostly nothing refers to the jail any more, and it is not even dying.
		if _, _, err := bsd.Call(unix.SYS_JAIL_GET, []bsd.Param{{Name: "jid", Value: bsd.Word(jid)}},
			jailDying); errors.Is(err, unix.ENOENT) {
			return nil
		}
		var err error
		if pids, err = m.processesOf(jid); err != nil {
			return err
		}
		if len(pids) == 0 { // the kernel's list is no snapshot, see WaitEmpty
			if pids, err = m.processesOf(jid); err != nil || len(pids) == 0 {
				return err
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not die", slices.Sorted(maps.Keys(pids)))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}
