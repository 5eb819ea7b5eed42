package jail

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// families tell to which of this prison's jails the jails below them belong: a
// jail that may have children (children.max) is answered for by what they do. It
// is for one pass over the processes; what was asked is kept.
type families map[int]int

// families knows our own jails without asking the kernel.
func (m *Manager) families() families {
	out := families{}
	for _, jid := range m.jids() {
		out[jid] = jid
	}
	return out
}

// top is the jail of this prison that a jail is or lies in, or the child of an owner of a
// network stack; 0 is the prison itself, as is a jail that has gone since.
func (f families) top(jid int) (int, error) {
	if jid == 0 {
		return 0, nil
	}
	if top, known := f[jid]; known {
		return top, nil
	}
	parent, kernel, err := jailParent(jid)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	top := jid
	if _, ours := ourName(kernel); !ours && parent != 0 {
		if top, err = f.top(parent); err != nil {
			return 0, err
		}
	}
	f[jid] = top
	return top, nil
}

// jailParent is the jail that a jail was made in, 0 for this prison, and its name in the kernel.
func jailParent(jid int) (int, string, error) {
	parent, name := make([]byte, 4), make([]byte, maxName+1)
	_, _, err := bsd.Call(unix.SYS_JAIL_GET, []bsd.Param{{Name: "jid", Value: bsd.Word(jid)},
		{Name: "parent", Value: parent}, {Name: "name", Value: name}}, jailDying)
	return int(binary.NativeEndian.Uint32(parent)), unix.ByteSliceToString(name), err
}

// eachOfJails calls f for all processes in jails, with the jail of this prison
// that each belongs to.
func (m *Manager) eachOfJails(f func(jid int, p bsd.Process)) error {
	all := m.families()
	var failed error
	err := bsd.EachProcess(func(p bsd.Process) {
		if p.JID() == 0 {
			return
		}
		top, err := all.top(p.JID())
		if err != nil {
			failed = err
		} else if top != 0 {
			f(top, p)
		}
	})
	return errors.Join(err, failed)
}

// processesOf returns the processes of a jail and of those below it, zombies
// too, by their pids with the jail that each is in.
func (m *Manager) processesOf(jid int) (map[int]int, error) {
	pids := map[int]int{}
	err := m.eachOfJails(func(top int, p bsd.Process) {
		if top == jid {
			pids[p.PID()] = p.JID()
		}
	})
	return pids, err
}

// livingOf returns the pids of a jail and of those below it, without the zombies.
func (m *Manager) livingOf(jid int) ([]int, error) {
	var pids []int
	err := m.eachOfJails(func(top int, p bsd.Process) {
		if top == jid && !p.Zombie() {
			pids = append(pids, p.PID())
		}
	})
	return pids, err
}
