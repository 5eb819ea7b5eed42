package jail

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Manager makes and watches jails by the kernel's system calls. It is the
// parent of the processes that it starts, and the reaper of what they leave
// behind.
type Manager struct {
	dir     string // notes on the limits that the kernel does not keep
	kq      int
	racct   bool // the kernel accounts for resources and limits them
	events  bool // the kernel tells of removed jails
	null    *os.File
	procs   procs
	removed chan string

	// starting is held for reading while a process is born: until it is in
	// procs nobody may reap it.
	starting sync.RWMutex

	mu    sync.Mutex
	jails map[string]*state
	types map[string]paramType // nil until asked for
}

// state is what is known of a jail. Its limits are kept in a file, for a
// daemon that comes after a crash.
type state struct {
	jid    int
	root   string
	gone   bool   // removed behind our back
	killed bool   // by us
	over   string // why it was killed by its limit
	notes
}

type notes struct {
	Memory    int64 `json:"memory,omitempty"`
	OpenFiles int64 `json:"openFiles,omitempty"`
}

// Open prepares the backend. One process has one Manager.
func Open(cfg Config) (*Manager, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("jails need root")
	}
	m := &Manager{dir: filepath.Join(cfg.StateDir, "jails"), jails: map[string]*state{}, removed: make(chan string)}
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
	m.racct = sysctlOn("kern.racct.enable") && !cfg.withoutRacct
	var err error
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

// sysctlOn reports whether a switch is there and on.
func sysctlOn(name string) bool {
	b, err := unix.SysctlRaw(name)
	return err == nil && len(bytes.Trim(b, "\x00")) > 0
}

// hasLinux is false where linux_common alone is loaded, for linprocfs.
func hasLinux() bool { return sysctlOn("kern.features.linux64") }

// Features tells what this backend can do.
func (m *Manager) Features() map[string]string {
	digit := map[bool]string{false: "0", true: "1"}
	_, err := m.paramType("meta")
	return map[string]string{
		"backend": "jail", "racct": digit[m.racct], "linux": digit[hasLinux()], "vnet": digit[sysctlOn("kern.features.vimage")],
		"jail.meta": digit[err == nil], "jail.events": digit[m.events],
	}
}

// paramTypes reads the kernel's list at the first need, and again where a name
// is missing: a module that was loaded since may have brought it.
func (m *Manager) paramTypes(again bool) (map[string]paramType, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.types != nil && !again {
		return m.types, nil
	}
	types, err := jailParams()
	if err == nil {
		m.types = types
	}
	return types, err
}

func (m *Manager) paramType(name string) (paramType, error) {
	types, err := m.paramTypes(false)
	if err != nil {
		return paramType{}, err
	}
	t, ok := types[name]
	if !ok {
		return paramType{}, errUnknownParam
	}
	return t, nil
}

func (m *Manager) encode(name, value string) (jailParam, error) {
	var kname string
	var kvalue []byte
	err := errUnknownParam
	for _, again := range []bool{false, true} {
		if !errors.Is(err, errUnknownParam) {
			break
		}
		var types map[string]paramType
		if types, err = m.paramTypes(again); err == nil {
			kname, kvalue, err = encodeParam(types, name, value)
		}
	}
	if err != nil {
		return jailParam{}, fmt.Errorf("parameter %s: %w", name, err)
	}
	return jailParam{kname, kvalue}, nil
}

// params are a spec's parameters in the kernel's form.
func (m *Manager) params(s Spec) ([]jailParam, error) {
	out := []jailParam{{"name", cstring(s.Name)}, {"path", cstring(s.Root)}, {"persist", nil}}
	if s.Hostname != "" {
		out = append(out, jailParam{"host.hostname", cstring(s.Hostname)})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Params)) {
		// A network stack of its own leaves no addresses to inherit.
		if (name == "ip4" || name == "ip6") && s.Params["vnet"] == "new" {
			continue
		}
		p, err := m.encode(name, s.Params[name])
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	if _, err := m.paramType("meta"); err == nil && len(s.Meta) > 0 {
		out = append(out, jailParam{"meta", cstring(metaText(s.Meta))})
	}
	return out, nil
}

// Create makes a jail that lasts until Remove, and returns its id.
func (m *Manager) Create(ctx context.Context, s Spec) (int, error) {
	if err := s.check(); err != nil {
		return 0, err
	}
	if s.Linux && !hasLinux() {
		return 0, &Error{Op: "create", Jail: s.Name, Err: errors.New("the image is Linux's and this kernel does not run Linux programs: kldload linux64")}
	}
	params, err := m.params(s)
	if err != nil {
		return 0, &Error{Op: "create", Jail: s.Name, Err: err}
	}
	jid, msg, err := jailCall(unix.SYS_JAIL_SET, params, jailCreate)
	if err != nil {
		if msg == "" { // the kernel has no words where the path is at fault
			msg = "root " + s.Root
		}
		return 0, &Error{Op: "create", Jail: s.Name, Message: msg, Err: err}
	}
	st := &state{jid: jid, root: s.Root, notes: notes{Memory: s.Limits.MemoryBytes, OpenFiles: s.Limits.OpenFiles}}
	m.mu.Lock()
	m.jails[s.Name] = st
	m.mu.Unlock()
	if err = m.watchJail(jid); err == nil {
		err = m.limit(s, st)
	}
	if err != nil {
		return 0, errors.Join(&Error{Op: "limit", Jail: s.Name, Err: err}, m.Remove(ctx, s.Name))
	}
	return jid, nil
}

// limit puts a spec's limits into force.
func (m *Manager) limit(s Spec, st *state) error {
	mask, err := cpuMask(s.Limits.CPUSet)
	if err == nil && mask != nil {
		err = cpusetJail(st.jid, mask)
	}
	if err != nil {
		return fmt.Errorf("cpuset %s: %w", s.Limits.CPUSet, err)
	}
	if m.racct {
		for _, rule := range rctlRules(s.Name, s.Limits) {
			if _, err := rctl(unix.SYS_RCTL_ADD_RULE, rule); err != nil {
				return fmt.Errorf("rctl rule %s: %w", rule, err)
			}
		}
	}
	if st.notes == (notes{}) {
		return nil
	}
	b, err := json.Marshal(st.notes)
	if err != nil {
		return err
	}
	return os.WriteFile(m.noteFile(s.Name), b, 0o600)
}

// Unenforced names the limits that this host does not put into force.
func (m *Manager) Unenforced(l Limits) []string {
	var out []string
	if m.racct {
		return nil
	}
	const fix = "kern.racct.enable is off"
	if l.MemoryBytes > 0 {
		out = append(out, "memory: "+fix+"; it is watched, and the jail is killed soon after it goes over")
	}
	if l.CPUPercent > 0 {
		out = append(out, "cpu: "+fix)
	}
	if l.MaxProcs > 0 {
		out = append(out, "processes: "+fix)
	}
	if l.OpenFiles > 0 {
		out = append(out, "open files: "+fix+"; each process is limited by itself")
	}
	return out
}

// noteFile has names that Create has checked.
func (m *Manager) noteFile(name string) string { return filepath.Join(m.dir, name+".json") }

// find returns a copy of what is known of a jail, from the kernel if need be.
func (m *Manager) find(op, name string) (state, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.jails[name]; ok {
		return *s, nil
	}
	if !validName.MatchString(name) {
		return state{}, &Error{Op: op, Jail: name, Err: ErrNotFound}
	}
	i, err := jailGet(name, 0)
	if err != nil {
		return state{}, &Error{Op: op, Jail: name, Err: err}
	}
	s := &state{jid: i.JID, root: i.Root}
	b, err := os.ReadFile(m.noteFile(name))
	if err == nil {
		err = json.Unmarshal(b, &s.notes)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return state{}, &Error{Op: op, Jail: name, Err: fmt.Errorf("its limits: %w", err)}
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
	k, err := process(pid)
	if err != nil {
		return err
	}
	if k.jid() != s.jid || !k.startedAt(start) {
		return fmt.Errorf("process %d is another one now", pid)
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

// WaitEmpty returns when a jail has no process left.
func (m *Manager) WaitEmpty(name string) {
	s, err := m.find("wait for", name)
	for err == nil && !s.gone {
		m.reap(s.jid)
		var pids []int
		if pids, err = processesOf(s.jid); err != nil || len(pids) == 0 {
			return
		}
		pid := pids[0]
		if _, ok := m.procs.get(pid); !ok {
			m.procs.add(pid, proc{jail: name})
			if m.event(pid, unix.EVFILT_PROC, unix.NOTE_EXIT) != nil {
				m.procs.forget(pid) // it has ended since
				continue
			}
		}
		<-m.Wait(pid)
	}
}

// Removed tells the names of jails that were removed behind our back.
func (m *Manager) Removed() <-chan string { return m.removed }

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
		err = signalAll(s.jid, sig, mark)
	} else if _, ours := m.procs.get(pid); ours {
		err = signalOne(s.jid, pid, sig, mark)
	} else {
		err = unix.ESRCH
	}
	if err != nil {
		return &Error{Op: "signal", Jail: name, Err: err}
	}
	return nil
}

func signalOne(jid, pid int, sig unix.Signal, mark func(int)) error {
	k, err := process(pid)
	if err != nil {
		return err
	}
	if k.jid() != jid || k.zombie() {
		return unix.ESRCH
	}
	mark(pid)
	return unix.Kill(pid, sig)
}

// signalAll passes over the processes until none is left that has not had the
// signal: they may fork meanwhile.
func signalAll(jid int, sig unix.Signal, mark func(int)) error {
	had := map[int]bool{}
	for range 100 {
		var pids []int
		err := eachProcess(func(k kinfo) {
			if k.jid() == jid && !k.zombie() && !had[k.pid()] {
				pids = append(pids, k.pid())
			}
		})
		if err != nil {
			return err
		}
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
		return m.forget(name)
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	if st := m.jails[name]; st != nil {
		st.killed = true
	}
	m.mu.Unlock()
	if !s.gone {
		if err := jailRemove(s.jid); err != nil {
			return &Error{Op: "remove", Jail: name, Err: err}
		}
	}
	if err := m.drain(ctx, s.jid); err != nil {
		return &Error{Op: "remove", Jail: name, Err: err}
	}
	m.mu.Lock()
	delete(m.jails, name)
	m.mu.Unlock()
	return m.forget(name)
}

// forget removes the rctl rules, which the kernel keeps by name and longer
// than the jail, and the notes.
func (m *Manager) forget(name string) error {
	if m.racct {
		if _, err := rctl(unix.SYS_RCTL_REMOVE_RULE, "jail:"+name); err != nil && !errors.Is(err, unix.ESRCH) {
			return &Error{Op: "remove rctl rules", Jail: name, Err: err}
		}
	}
	if !validName.MatchString(name) {
		return nil // never made by us
	}
	if err := os.Remove(m.noteFile(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &Error{Op: "remove", Jail: name, Err: err}
	}
	return nil
}

// drainTime is how long a killed process may take to die. One that hangs in
// the kernel, on a dead NFS server, takes longer: then Remove is tried again.
const drainTime = 20 * time.Second

func (m *Manager) drain(ctx context.Context, jid int) error {
	deadline := time.Now().Add(drainTime)
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, 50*time.Millisecond) {
		m.reap(jid)
		// Mostly nothing refers to the jail any more, and it is not even dying.
		if _, _, err := jailCall(unix.SYS_JAIL_GET, []jailParam{{"jid", word(jid)}}, jailDying); errors.Is(err, unix.ENOENT) {
			return nil
		}
		pids, err := processesOf(jid)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not die", pids)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// List returns the jails of this prison whose names begin as ours do.
func (m *Manager) List() ([]Info, error) {
	var out []Info
	for after := 0; ; {
		i, err := jailGet("", after)
		if errors.Is(err, ErrNotFound) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		after = i.JID
		if strings.HasPrefix(i.Name, namePrefix) && !strings.Contains(i.Name, ".") {
			out = append(out, i)
		}
	}
}
