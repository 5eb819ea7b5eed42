package pace

import (
	"io"
	"net"
	"testing"
	"time"
)

// Who sends a little within each pause, but next to nothing on the whole, is late; who was fast has nothing saved up.
func TestSlowIsLate(t *testing.T) {
	rate := Rate{Pause: time.Minute, Bytes: 1 << 10}
	type wait struct {
		took time.Duration
		n    int
	}
	for name, c := range map[string]struct {
		waits []wait
		left  time.Duration
	}{
		"nothing yet":     {nil, time.Minute},
		"fast":            {[]wait{{10 * time.Second, 1 << 30}}, time.Minute},
		"fast, then slow": {[]wait{{0, 1 << 30}, {50 * time.Second, 1 << 10}}, 11 * time.Second},
		"as fast as need": {[]wait{{50 * time.Second, 50 << 10}, {50 * time.Second, 50 << 10}}, time.Minute},
		"a byte now and then": {[]wait{{29 * time.Second, 1}, {29 * time.Second, 1}, {29 * time.Second, 1}},
			-27*time.Second + 3*time.Second/1024},
	} {
		w := rate.Waits(func() {})
		for _, one := range c.waits {
			w.count(one.took, one.n)
		}
		if d := w.left - c.left; d < -time.Microsecond || d > time.Microsecond {
			t.Errorf("%s: %s are left, want %s", name, w.left, c.left)
		}
	}
}

// A side that neither sends nor takes anything ends the wait for it, in both directions.
func TestStandingStill(t *testing.T) {
	for name, do := range map[string]func(w *Waits, c net.Conn) error{
		"read":  func(w *Waits, c net.Conn) error { _, err := w.Reader(c).Read(make([]byte, 1)); return err },
		"write": func(w *Waits, c net.Conn) error { _, err := w.Writer(c).Write(make([]byte, 1)); return err },
	} {
		here, there := net.Pipe()
		defer there.Close()
		w := Rate{Pause: time.Millisecond, Bytes: 1}.Waits(func() { _ = here.Close() })
		if err := do(w, here); err != io.ErrClosedPipe {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A byte in each pause does not keep a reader for ever.
func TestTrickle(t *testing.T) {
	r, in := io.Pipe()
	defer in.Close()
	w := Rate{Pause: 50 * time.Millisecond, Bytes: 1 << 20}.Waits(func() { _ = r.Close() })
	go func() {
		for {
			if _, err := in.Write([]byte{1}); err != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	if _, err := io.Copy(io.Discard, w.Reader(r)); err != io.ErrClosedPipe {
		t.Errorf("got %v", err)
	}
}

// What is done between the waits does not count.
func TestOnlyWaitsCount(t *testing.T) {
	late := make(chan struct{}, 10)
	w := Rate{Pause: 100 * time.Millisecond, Bytes: 1 << 20}.Waits(func() { late <- struct{}{} })
	w.Begin()
	w.End(0)
	time.Sleep(300 * time.Millisecond)
	w.Begin()
	w.End(0)
	select {
	case <-late:
		t.Error("late, though nobody was waited for")
	default:
	}
}
