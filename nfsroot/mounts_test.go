package nfsroot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

// local mounts a directory of this host in a server's place, and answers as
// slowly or as badly as a test wants.
type local struct {
	mu      sync.Mutex
	mounts  int
	hang    chan struct{} // not nil: probe and mount wait for it
	answer  error         // of a probe
	refuses error         // what a mount ends with
	given   []string      // the mounts that were given up
}

func (l *local) wait() error {
	l.mu.Lock()
	hang := l.hang
	l.mu.Unlock()
	if hang != nil {
		<-hang
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answer
}

func (l *local) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *local) mount(_ context.Context, src *Source, dir, target string, _ Options) error {
	l.set(func() { l.mounts++ })
	_ = l.wait() // what it answers is for those who look later
	var err error
	if l.set(func() { err = l.refuses }); err != nil {
		return err
	}
	return mount.Do(mount.Mount{Type: "nullfs", Source: filepath.Join(src.Server.Path, dir), Target: target,
		Options: []string{"ro"}})
}

func (l *local) during(_ string, do func() error) error { return do() }

func (l *local) probe(string) error { return l.wait() }

func (l *local) abandon(target string) error {
	l.set(func() { l.given = append(l.given, target) })
	return nil
}

func (*local) unmount(dir string) error { return mount.ForceUnder(dir) }

func (*local) mounted(target string) (bool, error) { return newKernel().mounted(target) }

type told struct {
	holders []string
	health  Health
}

// newMounts are the mounts of a host whose server is this directory.
func newMounts(t *testing.T, keep time.Duration) (*Mounts, *local, *Source, chan told) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	t.Cleanup(func() {
		if left, err := mount.Below(dir); err != nil || len(left) > 0 {
			t.Errorf("left mounted: %v %v", left, err)
			check(t, mount.ForceUnder(dir))
		}
	})
	server := Server{Host: "server", Port: Port, Path: filepath.Join(dir, "roots")}
	src := &Source{Server: server, Digest: writeExport(t, server.Path, "web", "config")}
	l, events := &local{}, make(chan told, 10)
	m, err := open(Config{Dir: filepath.Join(dir, "nfs"), Options: Options{Version: 4, Timeout: 2 * time.Second},
		Keep: keep, Every: 10 * time.Millisecond,
		Told: func(holders []string, h Health) { slices.Sort(holders); events <- told{holders, h} }}, l)
	check(t, err)
	return m, l, src, events
}

func (m *Mounts) count() int { return len(m.List()) }

// empty has no mount's directory left.
func empty(t *testing.T, m *Mounts) {
	t.Helper()
	for range 200 {
		if left, err := os.ReadDir(m.cfg.Dir); err == nil && len(left) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	left, err := os.ReadDir(m.cfg.Dir)
	t.Errorf("left: %v %v", left, err)
}

func TestOneMountForAll(t *testing.T) {
	m, l, src, _ := newMounts(t, 0)
	var wg sync.WaitGroup
	roots := make([]string, 4)
	for i, h := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			var err error
			if roots[i], err = m.Acquire(t.Context(), src, h); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if l.mounts != 1 || roots[0] != roots[3] {
		t.Errorf("%d mounts for 4 tasks of an image: %v", l.mounts, roots)
	}
	if _, err := os.Stat(roots[0]); err != nil {
		t.Error(err)
	}
	for _, h := range []string{"a", "b", "c", "c", "nobody"} {
		check(t, m.Release(h))
	}
	if m.count() != 1 {
		t.Error("the mount of a running task is gone")
	}
	check(t, m.Release("d"))
	empty(t, m)
}

// A mount that is kept is used again, and ends with its time or the daemon.
func TestKeep(t *testing.T) {
	m, l, src, _ := newMounts(t, time.Hour)
	for range 2 {
		_, err := m.Acquire(t.Context(), src, "a")
		check(t, err)
		check(t, errors.Join(m.Release("a"), m.Tick()))
	}
	if l.mounts != 1 || m.count() != 1 {
		t.Errorf("%d mounts, %d left", l.mounts, m.count())
	}
	m.cfg.Keep = 0
	check(t, m.Tick())
	empty(t, m)
	m.cfg.Keep = time.Hour
	_, err := m.Acquire(t.Context(), src, "a")
	check(t, err)
	check(t, errors.Join(m.Release("a"), m.Close()))
	empty(t, m)
}

// A later daemon finds who has what, and takes down what nobody has.
func TestLaterDaemon(t *testing.T) {
	m, l, src, _ := newMounts(t, time.Hour)
	other := *src
	other.Digest = writeExport(t, src.Server.Path, "other", "another config")
	for h, s := range map[string]*Source{"a": src, "b": src, "c": &other} {
		_, err := m.Acquire(t.Context(), s, h)
		check(t, err)
	}
	check(t, os.MkdirAll(filepath.Join(m.cfg.Dir, "half.1", holdersDir), 0o700)) // cut off while it was being made
	later, err := open(m.cfg, l)
	check(t, err)
	check(t, later.Reconcile([]string{"a", "x"}))
	if later.count() != 1 || len(later.List()[0].Holders) != 1 {
		t.Errorf("the later daemon has %+v", later.List())
	}
	if _, err = later.Acquire(t.Context(), src, "d"); err != nil || l.mounts != 2 {
		t.Errorf("a mount that is there was not used: %d, %v", l.mounts, err)
	}
	check(t, errors.Join(later.Release("a"), later.Release("d"), later.Close()))
	empty(t, later)
}

// Whatever lies among the mounts keeps nobody from the others, and is waited for by
// nobody.
func TestDamagedMounts(t *testing.T) {
	m, l, src, _ := newMounts(t, time.Hour)
	_, err := m.Acquire(t.Context(), src, "a")
	check(t, err)
	at := func(elem ...string) string { return filepath.Join(append([]string{m.cfg.Dir}, elem...)...) }
	for _, dir := range []string{"holders.1", "fifo.1", "zeros.1", "directory.1"} {
		check(t, os.Mkdir(at(dir), 0o700))
	}
	check(t, os.WriteFile(at("file"), nil, 0o600))
	check(t, os.WriteFile(at("holders.1", holdersDir), nil, 0o600))
	check(t, unix.Mkfifo(at("fifo.1", notedFile), 0o600))
	check(t, os.WriteFile(at("zeros.1", notedFile), make([]byte, 100), 0o600))
	check(t, os.Mkdir(at("directory.1", notedFile), 0o700))
	var damaged []string
	cfg := m.cfg
	cfg.Damaged = func(path string, err error) { damaged = append(damaged, filepath.Base(path)) }
	later, err := open(cfg, l)
	check(t, err)
	if want := []string{"file", "holders.1"}; !slices.Equal(damaged, want) {
		t.Errorf("damaged are %v, want %v", damaged, want)
	}
	err = later.Reconcile([]string{"a"})
	if later.count() != 1 && err == nil {
		t.Errorf("the later daemon has %+v", later.List())
	}
	if _, err := later.Acquire(t.Context(), src, "b"); err != nil || l.mounts != 1 {
		t.Errorf("a mount that is there was not used: %d, %v", l.mounts, err)
	}
	check(t, errors.Join(os.RemoveAll(at("directory.1")), os.Remove(at("file")), os.RemoveAll(at("holders.1"))))
	check(t, errors.Join(later.Release("a"), later.Release("b"), later.Close()))
	empty(t, later)
}

// A server that is away while it is mounted costs the timeout and leaves
// nothing, however late the kernel comes back.
func TestAwayAtStart(t *testing.T) {
	m, l, src, _ := newMounts(t, time.Hour)
	hang := make(chan struct{})
	l.set(func() { l.hang = hang })
	_, err := m.Acquire(t.Context(), src, "a")
	wantError(t, "away", err, ErrAway)
	l.set(func() { l.hang = nil })
	close(hang)
	empty(t, m)
	l.set(func() { l.refuses = syscall.EACCES })
	_, err = m.Acquire(t.Context(), src, "a")
	wantError(t, "refused", err, syscall.EACCES)
	empty(t, m)
}

func TestHealth(t *testing.T) {
	m, l, src, events := newMounts(t, time.Hour)
	for _, h := range []string{"a", "b"} {
		_, err := m.Acquire(t.Context(), src, h)
		check(t, err)
	}
	expect := func(fault string) {
		t.Helper()
		select {
		case e := <-events:
			if e.health.Fault != fault || !slices.Equal(e.holders, []string{"a", "b"}) {
				t.Errorf("told %+v, want %q", e, fault)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("nobody tells of %q", fault)
		}
	}
	for _, step := range []struct {
		answer error
		fault  string
	}{{syscall.EACCES, faultRefused}, {nil, ""}, {syscall.EIO, faultError}, {nil, ""}, {syscall.ESTALE,
		faultStale}, {nil, ""}} {
		l.set(func() { l.answer = step.answer })
		expect(step.fault)
	}
	hang := make(chan struct{})
	l.set(func() { l.hang = hang })
	expect(faultAway)
	if h, has := m.Of("a"); !has || h.OK() {
		t.Errorf("a is %+v", h)
	}
	l.set(func() { l.hang = nil })
	close(hang)
	expect("")

	// Nobody who stays is disturbed by one who goes.
	l.set(func() { l.answer = syscall.ESTALE })
	expect(faultStale)
	check(t, m.Leave("a"))
	if len(l.given) > 0 {
		t.Error("a mount was given up that another task has")
	}
	check(t, m.Leave("b"))
	if len(l.given) != 1 {
		t.Errorf("a stale mount that all leave was not given up: %v", l.given)
	}
	root, err := m.Acquire(t.Context(), src, "c")
	if err != nil || l.mounts != 2 {
		t.Errorf("a new task got the stale mount: %s %v", root, err)
	}
	check(t, errors.Join(m.Release("a"), m.Release("b"), m.Release("c"), m.Close()))
	empty(t, m)
}
