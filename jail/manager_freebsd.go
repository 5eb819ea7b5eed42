package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
	"github.com/freejail/freejail/internal/regular"
)

// Manager makes and watches jails by the kernel's system calls. It is the
// parent of the processes that it starts, and the reaper of what they leave
// behind.
type Manager struct {
	dir    string // notes on the limits that the kernel does not keep
	traces string // directory
	kq     int
	racct  bool // the kernel accounts for resources and limits them
	events bool // the kernel tells of removed jails
	null   *os.File

	inherited inheritance
	procs     procs
	removed   chan string

	// starting is held for reading while a process is born: until it is in
	// procs nobody may reap it.
	starting sync.RWMutex
	unborn   unborn

	looks looks

	mu    sync.Mutex
	jails map[string]*state
	types map[string]paramType // nil until asked for
}

// state is what is known of a jail. Its limits are kept in a file, for a
// daemon that comes after a crash.
type state struct {
	kernel string // its name in the kernel
	jid    int
	root   string
	gone   bool   // removed behind our back
	killed bool   // by us
	over   string // why it was killed by its limit
	notes
	damaged error // why there are no notes
}

type notes struct {
	Memory    int64 `json:"memory,omitempty"`
	OpenFiles int64 `json:"openFiles,omitempty"`
	// InMemory are those of Spec.
	InMemory [][]byte `json:"inMemory,omitempty"`
	// Stack is that of Spec, of which the kernel's limits must be known by their names.
	Stack string `json:"stack,omitempty"`
}

// Open prepares the backend. One process has one Manager.
func Open(cfg Config) (*Manager, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("jails need root")
	}
	m := &Manager{dir: filepath.Join(cfg.StateDir, "jails"), traces: traceDir(cfg.StateDir),
		jails: map[string]*state{}, removed: make(chan string)}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, err
	}
	if err := procctl(procReapAcquire, nil); err != nil && !errors.Is(err, unix.EBUSY) { // EBUSY: it is already
		return nil, fmt.Errorf("become reaper: %w", err)
	}
	// A child is in the jail for a moment before its program replaces our
	// memory and descriptors. Nobody in there may trace it.
	off := int32(procTraceCtlDisable)
	if err := procctl(procTraceCtl, unsafe.Pointer(&off)); err != nil {
		return nil, fmt.Errorf("forbid tracing: %w", err)
	}
	if err := sweepTraces(m.traces); err != nil {
		return nil, err
	}
	m.racct = bsd.SysctlOn("kern.racct.enable") && !cfg.withoutRacct
	if err := raiseOwn(); err != nil {
		return nil, err
	}
	var err error
	if m.inherited, err = readInherited(); err != nil {
		return nil, err
	}
	if m.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	if m.kq, err = unix.Kqueue(); err != nil {
		return nil, fmt.Errorf("kqueue: %w", err)
	}
	unix.CloseOnExec(m.kq)
	if err := m.event(int(unix.SIGCHLD), unix.EVFILT_SIGNAL, 0); err != nil {
		return nil, fmt.Errorf("watch children: %w", err)
	}
	// 0 is our own prison: a probe whether the kernel knows the filter.
	m.events = !cfg.withoutEvents && m.event(0, evfiltJail, noteJailRemove) == nil
	go m.run()
	return m, nil
}

// hasLinux is false where linux_common alone is loaded, for linprocfs.
func hasLinux() bool { return bsd.SysctlOn("kern.features.linux64") }

// Features tells what this backend can do.
func (m *Manager) Features() map[string]string {
	digit := map[bool]string{false: "0", true: "1"}
	_, err := m.paramType("meta")
	return map[string]string{
		"backend": "jail", "racct": digit[m.racct], "linux": digit[hasLinux()],
		"vnet":      digit[bsd.SysctlOn("kern.features.vimage")],
		"jail.meta": digit[err == nil], "jail.events": digit[m.events],
	}
}

// noteFile has names that Create has checked.
func (m *Manager) noteFile(name string) string { return filepath.Join(m.dir, name+".json") }

// maxNotes is far more than what is noted of a jail.
const maxNotes = 1 << 16

func (n *notes) read(path string) error {
	f, _, err := regular.Open(path)
	if err != nil {
		return err
	}
	b, err := regular.Read(f, path, maxNotes)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return json.Unmarshal(b, n)
}

// write replaces what is there as a whole: a daemon that is killed leaves no half.
func (n notes) write(path string) error {
	b, err := json.Marshal(n)
	if err == nil {
		err = os.WriteFile(path+".new", b, 0o600)
	}
	if err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Notes are the names of the jails of which there are notes. Jails do not outlive
// the host; what is noted of them does, until it is removed with them.
func (m *Manager) Notes() ([]string, error) {
	files, err := os.ReadDir(m.dir)
	var out []string
	for _, f := range files {
		if name, is := strings.CutSuffix(f.Name(), ".json"); is && validName.MatchString(name) {
			out = append(out, name)
		}
	}
	return out, err
}

// withoutNotes can be done to a jail whose limits are not known.
var withoutNotes = map[string]bool{"remove": true, "kill": true, "signal": true, "wait for": true}

// find returns a copy of what is known of a jail, from the kernel if need be. With
// notes that cannot be read a jail can only be ended.
func (m *Manager) find(op, name string) (state, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, err := m.findLocked(op, name)
	if err == nil && s.damaged != nil && !withoutNotes[op] {
		err = &Error{Op: op, Jail: name, Err: fmt.Errorf("its limits are not known: %w", s.damaged)}
	}
	return s, err
}

func (m *Manager) findLocked(op, name string) (state, error) {
	if s, ok := m.jails[name]; ok {
		return *s, nil
	}
	if !validName.MatchString(name) {
		return state{}, &Error{Op: op, Jail: name, Err: ErrNotFound}
	}
	i, err := findJail(name)
	if err != nil {
		return state{}, &Error{Op: op, Jail: name, Err: err}
	}
	s := &state{kernel: i.Name, jid: i.JID, root: i.Root}
	if err := s.notes.read(m.noteFile(name)); !errors.Is(err, fs.ErrNotExist) {
		s.damaged = err
	}
	m.jails[name] = s
	return *s, nil
}

// Adopt watches a process of a jail that an earlier daemon started.
func (m *Manager) Adopt(name string, pid int, start string) error {
	s, err := m.find("adopt", name)
	if err != nil {
		return err
	}
	p, err := bsd.FindProcess(pid)
	if err != nil {
		return err
	}
	top, err := m.families().top(p.JID())
	if err != nil {
		return err
	}
	if top != s.jid || !startedAt(p, start) {
		return fmt.Errorf("process %d is not the one that was started: its number was used again", pid)
	}
	if err := m.renewRules(s.kernel, s.notes); err != nil {
		return &Error{Op: "limit", Jail: name, Err: err}
	}
	m.procs.add(pid, proc{jail: name})
	// The kernel tells at once of one that ends before it is asked.
	if err := m.event(pid, unix.EVFILT_PROC, unix.NOTE_EXIT); err != nil {
		m.procs.forget(pid)
		return fmt.Errorf("process %d: %w", pid, err)
	}
	if err := m.watchJail(s.jid); err != nil {
		return &Error{Op: "watch", Jail: name, Err: err}
	}
	m.reap(s.jid)
	return nil
}

// Wait returns a channel that tells the end of a process once.
func (m *Manager) Wait(pid int) <-chan Exit { return m.procs.wait(pid) }

// OnExit has f called once, when a process has ended: no goroutine waits for that. f is to return at once.
func (m *Manager) OnExit(pid int, f func(Exit)) { m.procs.onExit(pid, f) }

// Still waits for ends that are being told. None is told until undo is called, nor is a child collected: a program
// that replaces this one in the same process finds how each has ended.
func (m *Manager) Still() (undo func()) {
	m.procs.still.Lock()
	return m.procs.still.Unlock
}

// WaitEmpty returns when a jail has no process left. The kernel's list is no
// snapshot: a process that forks and ends while it is made can hide its child
// (sysctl_kern_proc in kern/kern_proc.c lets go of its locks), so it is asked twice.
func (m *Manager) WaitEmpty(name string) {
	s, err := m.find("wait for", name)
	for empty := 0; err == nil && !s.gone && empty < 2; {
		m.reap(s.jid)
		ended, has, werr := m.watchOne(name, s.jid)
		if empty++; has {
			empty = 0
			select {
			case <-ended:
			case <-time.After(tick): // what ended before it was watched is told to nobody
			}
		}
		err = werr
	}
}

// watchOne watches a living process of a jail, if it has one: a zombie is its
// parent's. It waits for starts under way: a child of ours is to be known first by
// who asks for its end.
func (m *Manager) watchOne(name string, jid int) (ended <-chan struct{}, has bool, err error) {
	m.starting.Lock()
	defer m.starting.Unlock()
	pids, err := m.livingOf(jid)
	for _, pid := range pids {
		ended, isNew := m.procs.watch(pid, name)
		if isNew && m.event(pid, unix.EVFILT_PROC, unix.NOTE_EXIT) != nil {
			m.procs.forget(pid) // it has ended since
			continue
		}
		return ended, true, nil
	}
	return nil, false, err
}

// Removed tells the names of jails that were removed behind our back.
func (m *Manager) Removed() <-chan string { return m.removed }

// Find returns one of those that List has by its name; else ErrNotFound.
func (m *Manager) Find(name string) (i Info, err error) {
	m.mu.Lock()
	s := m.jails[name]
	m.mu.Unlock()
	switch {
	case !validName.MatchString(name):
		err = ErrNotFound
	case s != nil:
		i, err = jailGet(s.kernel, 0)
	default:
		i, err = findJail(name)
	}
	if err != nil {
		return Info{}, &Error{Op: "find", Jail: name, Err: err}
	}
	i.Name = name
	return i, nil
}

// List returns the jails of this prison whose names begin as ours do.
func (m *Manager) List() (out []Info, err error) {
	err = eachJail(func(i Info) bool {
		if name, ours := ourName(i.Name); ours {
			i.Name = name
			out = append(out, i)
		}
		return true
	})
	return out, err
}
