package task

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/storage"
)

// A disk limit is watched without a goroutine that waits, is told of once, and lets go of the root in both ways.
func TestDiskIsWatchedNowAndThen(t *testing.T) {
	kind := map[string]string{"linux": "overlay", "freebsd": "union"}[runtime.GOOS]
	dir := t.TempDir()
	store, err := storage.Open(kind, dir, storage.Config{})
	if err != nil {
		t.Skip(err)
	}
	patience := time.Now().Add(time.Minute)
	await := func(what string, is func() bool) {
		t.Helper()
		for ; !is(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(patience) {
				t.Fatal(what)
			}
		}
	}
	watched := func(id string, ended <-chan struct{}, over func(string)) (*diskWatch, string) {
		t.Helper()
		upper := filepath.Join(dir, "roots", id, "upper")
		if err := os.MkdirAll(upper, 0o700); err != nil {
			t.Fatal(err)
		}
		meter, err := store.(metered).Meter(id)
		if err != nil {
			t.Fatal(err)
		}
		w := &diskWatch{meter: meter, limit: 1 << 20, ended: ended, pause: func(int) error { return nil },
			tell: func(int64) {}, warn: func(err error) { t.Error(err) }, over: over}
		w.watch()
		return w, upper
	}
	closed := func(w *diskWatch) func() bool {
		return func() bool { _, err := w.meter.Free(); return errors.Is(err, unix.EBADF) }
	}
	why := make(chan string, 10)
	w, upper := watched("one", nil, func(text string) { why <- text })
	await("a goroutine waits", func() bool {
		b := make([]byte, 1<<20)
		return !strings.Contains(string(b[:runtime.Stack(b, true)]), "task.(*diskWatch)")
	})
	if err := os.WriteFile(filepath.Join(upper, "file"), make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if text := <-why; !strings.HasPrefix(text, "over its disk limit of 1MiB") {
		t.Errorf("told: %s", text)
	}
	await("the root of a task over its limit is still open", closed(w))

	ended := make(chan struct{})
	w, _ = watched("two", ended, func(text string) { why <- text })
	close(ended)
	await("the root of a task that has ended is still open", closed(w))
	if len(why) > 0 {
		t.Errorf("told too: %s", <-why)
	}
}
