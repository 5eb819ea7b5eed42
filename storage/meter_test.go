package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

// metered makes the directory of a task as drivers do, and returns what measures
// it and the directory that the task writes to.
func metered(t *testing.T) (*Meter, string) {
	t.Helper()
	return meteredAt(t, t.TempDir())
}

// meteredAlone has a file system that nobody else writes to.
func meteredAlone(t *testing.T) (*Meter, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	base := t.TempDir()
	if err := mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: base,
		Options: []string{"mode=700"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, mount.UnmountUnder(base)) })
	return meteredAt(t, base)
}

func meteredAt(t *testing.T, base string) (*Meter, string) {
	t.Helper()
	d, err := openDirs(base)
	if err != nil {
		t.Fatal(err)
	}
	upper := filepath.Join(base, "roots", "t", "upper")
	if err := os.MkdirAll(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	m, err := d.Meter("t")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, m.Close()) })
	return m, upper
}

func never(int) error { return nil }

// between measures without a limit.
func between(t *testing.T, m *Meter, least, most int64) {
	t.Helper()
	if n, err := m.Measure(1<<60, never); err != nil || n < least || n > most {
		t.Errorf("measured %d bytes, want %d to %d: %v", n, least, most, err)
	}
}

// writeThrough waits for the disk: some file systems allocate late.
func writeThrough(path string, n int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, n))
	return errors.Join(err, f.Sync(), f.Close())
}

func makeFiles(t *testing.T, dir string, n int) {
	t.Helper()
	check(t, os.MkdirAll(dir, 0o755))
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMeterCountsWhatIsAllocated(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		fill        func(dir string) error
		least, most int64
	}{
		"nothing": {func(string) error { return nil }, 0, 64 << 10},
		"a file":  {func(dir string) error { return writeThrough(dir+"/a", 4*mib) }, 4 * mib, 5 * mib},
		"holes": {func(dir string) error {
			return errors.Join(writeThrough(dir+"/a", mib), os.Truncate(dir+"/a", 1<<30))
		}, mib, 2 * mib},
		"many names of one file": {func(dir string) error {
			err := writeThrough(dir+"/a", 4*mib)
			for i := range 500 {
				err = errors.Join(err, os.Link(dir+"/a", fmt.Sprintf("%s/b%d", dir, i)))
			}
			return err
		}, 4 * mib, 5 * mib},
		"links": {func(dir string) error {
			return errors.Join(os.Symlink("/", dir+"/root"), os.Symlink("/usr", dir+"/usr"),
				os.Symlink(".", dir+"/loop"))
		}, 0, 128 << 10},
		"no file": {func(dir string) error { return unix.Mkfifo(dir+"/fifo", 0o600) }, 0, 64 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			m, upper := metered(t)
			check(t, c.fill(upper))
			between(t, m, c.least, c.most)
		})
	}
}

// Empty files take inodes, of which a file system has a number.
func TestMeterCountsInodes(t *testing.T) {
	m, upper := metered(t)
	makeFiles(t, upper, 2000)
	between(t, m, 2000*InodeBytes, 3000*InodeBytes)
}

// A tree of many entries is measured in batches, with a pause after each, and not
// further than to the limit.
func TestMeterPauses(t *testing.T) {
	m, upper := meteredAlone(t)
	for i := range 100 {
		makeFiles(t, filepath.Join(upper, strconv.Itoa(i)), 1000)
	}
	pauses, entries, most := 0, 0, 0
	pause := func(n int) error { pauses, entries, most = pauses+1, entries+n, max(most, n); return nil }
	if n, err := m.Measure(1<<60, pause); err != nil || n < 100_100*InodeBytes || entries < 100_100 ||
		most > meterBatch {
		t.Errorf("measured %d bytes with %d pauses for %d entries, %d between two: %v", n, pauses, entries, most, err)
	}
	pauses = 0
	if n, err := m.Measure(1000*InodeBytes, pause); err != nil || n <= 1000*InodeBytes || pauses > 1 {
		t.Errorf("the limit passed, it went on to %d bytes with %d pauses: %v", n, pauses, err)
	}
	stop := errors.New("stop")
	if _, err := m.Measure(1<<60, func(int) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("a pause's error ended it with %v", err)
	}
}

// Neither PATH_MAX nor the number of open files bounds how deep a task can write.
func TestMeterDeep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("file handles need root")
	}
	m, upper := metered(t)
	dir, err := os.Open(upper)
	if err != nil {
		t.Fatal(err)
	}
	const depth = 3000
	for range depth {
		check(t, unix.Mkdirat(int(dir.Fd()), "d", 0o755))
		fd, err := unix.Openat(int(dir.Fd()), "d", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		check(t, dir.Close())
		dir = os.NewFile(uintptr(fd), "d")
	}
	for i := range 2000 {
		fd, err := unix.Openat(int(dir.Fd()), strconv.Itoa(i), unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		check(t, unix.Close(fd))
	}
	check(t, dir.Close())
	before, most := openFiles(t), 0
	n, err := m.Measure(1<<60, func(int) error { most = max(most, openFiles(t)); return nil })
	if err != nil || n < (depth+2000)*InodeBytes {
		t.Errorf("measured %d bytes: %v", n, err)
	}
	if most > before+meterDepth+2 {
		t.Errorf("%d files are open, before %d", most, before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A task that exchanges a directory and a link without end does not have the
// daemon look elsewhere.
func TestMeterStaysInside(t *testing.T) {
	m, upper := metered(t)
	outside := t.TempDir()
	makeFiles(t, outside, 2000)
	dir, aside := filepath.Join(upper, "dir"), filepath.Join(upper, "aside")
	check(t, errors.Join(os.Mkdir(dir, 0o755), os.Symlink(outside, filepath.Join(upper, "link"))))
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			default:
			}
			err := errors.Join(os.Rename(dir, aside), os.Rename(filepath.Join(upper, "link"), dir),
				os.Rename(dir, filepath.Join(upper, "link")), os.Rename(aside, dir))
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 2000 {
		if n, err := m.Measure(1<<60, never); err != nil || n > 100*InodeBytes {
			t.Errorf("measured %d bytes: %v", n, err)
			break
		}
	}
	close(end)
	<-ended
}

func TestMeterFree(t *testing.T) {
	m, upper := meteredAlone(t)
	before, err := m.Free()
	if err != nil || before <= 0 {
		t.Fatalf("free: %d %v", before, err)
	}
	check(t, writeThrough(filepath.Join(upper, "a"), 64<<20))
	if after, err := m.Free(); err != nil || after >= before {
		t.Errorf("free before %d, after 64 MiB were written %d: %v", before, after, err)
	}
}

// BenchmarkMeasure is the cost of an entry, without the pauses.
func BenchmarkMeasure(b *testing.B) {
	base := b.TempDir()
	d, err := openDirs(base)
	if err != nil {
		b.Fatal(err)
	}
	for i := range 100 {
		dir := filepath.Join(base, "roots", "t", "upper", strconv.Itoa(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		for n := range 100 {
			if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(n)), nil, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	m, err := d.Meter("t")
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	entries := 0
	for b.Loop() {
		if _, err := m.Measure(1<<60, func(n int) error { entries += n; return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(entries), "ns/entry")
}
