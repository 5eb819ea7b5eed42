package task

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/storage"
)

// closing tells when a meter is closed.
type closing struct {
	*storage.Meter
	closed chan struct{}
}

func (c closing) Close() error {
	close(c.closed)
	return c.Meter.Close()
}

// A disk limit is watched without a goroutine that waits, is told of once, and lets go of the root in both ways.
func TestDiskIsWatchedNowAndThen(t *testing.T) {
	kind := map[string]string{"linux": "overlay", "freebsd": "union"}[runtime.GOOS]
	dir := t.TempDir()
	store, err := storage.Open(kind, dir, storage.Config{})
	if err != nil {
		t.Skip(err)
	}
	watched := func(id string, ended <-chan struct{}, over func(string)) (closed <-chan struct{}, upper string) {
		t.Helper()
		upper = filepath.Join(dir, "roots", id, "upper")
		if err := os.MkdirAll(upper, 0o700); err != nil {
			t.Fatal(err)
		}
		m, err := store.(metered).Meter(id)
		if err != nil {
			t.Fatal(err)
		}
		c := closing{m, make(chan struct{})}
		w := &diskWatch{meter: c, limit: 1 << 20, ended: ended, pause: func(int) error { return nil },
			tell: func(int64) {}, warn: func(err error) { t.Error(err) }, over: over}
		w.watch()
		return c.closed, upper
	}
	why := make(chan string, 10)
	closed, upper := watched("one", nil, func(text string) { why <- text })
	for patience := time.Now().Add(time.Minute); looking(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(patience) {
			t.Fatal("a goroutine waits")
		}
	}
	if err := os.WriteFile(filepath.Join(upper, "file"), make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if text := <-why; !strings.HasPrefix(text, "over its disk limit of 1MiB") {
		t.Errorf("told: %s", text)
	}
	<-closed

	ended := make(chan struct{})
	closed, _ = watched("two", ended, func(text string) { why <- text })
	close(ended)
	<-closed
	if len(why) > 0 {
		t.Errorf("told too: %s", <-why)
	}
}

// looking tells whether a goroutine is at a disk limit.
func looking() bool {
	b := make([]byte, 1<<20)
	return strings.Contains(string(b[:runtime.Stack(b, true)]), "task.(*diskWatch)")
}
