package api

import (
	"context"
	"net"
	"testing"
	"time"
)

// Who takes a frame within each minute, but next to nothing on the whole, ends the save; who is fast may pause.
func TestSlowReaderOfASave(t *testing.T) {
	for _, c := range []struct {
		wrote  int64
		waited time.Duration
		want   time.Duration
	}{
		{0, 0, frameTime},
		{1 << 30, 10 * time.Second, frameTime}, // nothing is saved up
		{32 << 10, 50 * time.Second, 11 * time.Second},
		{10 * 32 << 10, 5 * time.Minute, -230 * time.Second},
	} {
		if got := (&punctual{wrote: c.wrote, waited: c.waited}).patience(); got != c.want {
			t.Errorf("%d bytes in %s: %s, want %s", c.wrote, c.waited, got, c.want)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	here, there := net.Pipe()
	defer there.Close()
	context.AfterFunc(ctx, func() { _ = here.Close() })
	if _, err := (&punctual{Conn: here, cancel: cancel, waited: time.Hour}).Write([]byte("frame")); err == nil {
		t.Error("a frame was taken")
	}
	if context.Cause(ctx) == nil {
		t.Error("the save goes on")
	}
}
