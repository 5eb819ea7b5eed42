package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/jail"
)

// deafJails have one process, which SIGKILL alone ends.
type deafJails struct{ fakeJails }

func (j deafJails) List() ([]jail.Info, error)      { return []jail.Info{{Name: "fj-one"}}, nil }
func (j deafJails) Adopt(string, int, string) error { return nil }

func (j deafJails) Signal(name string, pid int, sig syscall.Signal) error {
	if sig == syscall.SIGKILL {
		return j.fakeJails.Signal(name, pid, sig)
	}
	return nil
}

// recovered is the manager after the one whose journal has these lines for a deaf task.
func recovered(t *testing.T, lines string) (*fakeHost, *Manager) {
	t.Helper()
	h := &fakeHost{t: t, dir: t.TempDir()}
	m := h.manager()
	m.Jails, m.Catalog = deafJails{fakeJails{fakeHost: h}}, nil
	dir := filepath.Join(h.dir, "tasks", "one")
	err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, journalName), []byte(lines), 0o600))
	if err = errors.Join(err, m.Read(t.Context()), m.Recover(context.WithoutCancel(t.Context()))); err != nil {
		t.Fatal(err)
	}
	return h, m
}

const runs = `{"task":{"spec":{"id":"one","image":"prog"},"state":"running","jail":"fj-one","pid":7},"boot":"this"}` + "\n"

// killedAfter waits for a task's end and wants it to be a kill after a time.
func killedAfter(t *testing.T, m *Manager, began time.Time, want time.Duration) {
	t.Helper()
	e, err := m.Wait(t.Context(), "one")
	if err != nil || e.Signal != int(syscall.SIGKILL) {
		t.Fatalf("the end: %+v %v", e, err)
	}
	if took := time.Since(began); took < want || took > want+time.Second {
		t.Errorf("killed after %s, want %s", took, want)
	}
}

// A stop whose client goes away ends its task; later ones make that earlier, never later.
func TestStopGoesOnWithoutItsClient(t *testing.T) {
	const first = 10 * time.Second
	for name, c := range map[string]struct {
		again func(context.Context, *Manager) error
		want  time.Duration
	}{
		"alone":   {func(context.Context, *Manager) error { return nil }, first},
		"later":   {stopWithin(time.Hour), first},
		"sooner":  {stopWithin(2 * time.Second), 2 * time.Second},
		"at once": {stopWithin(0), 0},
		"removed": {func(ctx context.Context, m *Manager) error { return m.Destroy(ctx, "one", true) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, m := recovered(t, runs)
				gone, leave := context.WithCancel(t.Context())
				leave()
				began := time.Now()
				for _, stop := range []func(context.Context, *Manager) error{stopWithin(first), c.again} {
					if err := stop(gone, m); err != nil && !errors.Is(err, context.Canceled) {
						t.Fatal(err)
					}
				}
				killedAfter(t, m, began, c.want)
				synctest.Wait()
				if n, _ := m.Count(); name == "removed" && n > 0 {
					t.Error("a task is not removed as its client is gone")
				}
			})
		})
	}
}

func stopWithin(own time.Duration) func(context.Context, *Manager) error {
	return func(ctx context.Context, m *Manager) error {
		_, err := m.Stop(ctx, "one", client.StopRequest{Timeout: client.Duration(own)})
		return err
	}
}

// The time of a kill is in the journal, and kept by the next daemon.
func TestNextDaemonKills(t *testing.T) {
	for _, own := range []time.Duration{time.Minute, -time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			stopping := fmt.Sprintf(`{"task":{"spec":{"id":"one","image":"prog"},"state":"stopping","jail":"fj-one",`+
				`"pid":7},"kill":{"at":%q}}`+"\n", began.Add(own).Format(time.RFC3339Nano))
			_, m := recovered(t, runs+stopping)
			killedAfter(t, m, began, max(0, own))
			synctest.Wait()
		})
	}
	// The clock was set an hour on, or back, before the next daemon reads it.
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			at := began.Add(time.Minute)
			stopping := fmt.Sprintf(`{"task":{"spec":{"id":"one","image":"prog"},"state":"stopping","jail":"fj-one",`+
				`"pid":7},"kill":{"at":%q,"up":%d}}`+"\n", at.Add(-by).Format(time.RFC3339Nano), monotonic(at))
			_, m := recovered(t, runs+stopping)
			<-m.all()[0].done
			if took := time.Since(began); (took - time.Minute).Abs() > 30*time.Second {
				t.Errorf("the clock was set by %s: killed after %s, want a minute", by, took)
			}
			synctest.Wait()
		})
	}
	synctest.Test(t, func(t *testing.T) {
		h, m := recovered(t, runs)
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		began := time.Now()
		if err := stopWithin(time.Minute)(ctx, m); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		j, err := openJournal(filepath.Join(h.dir, "tasks", "one"))
		if err != nil {
			t.Fatal(err)
		}
		defer j.file.Close()
		next, err := j.replay()
		if err != nil || next.kill == nil || !next.kill.At.Equal(began.Add(time.Minute)) ||
			next.info.State != client.Stopping {
			t.Errorf("the next daemon reads %+v %v", next, err)
		}
		killedAfter(t, m, began, time.Minute)
		synctest.Wait()
	})
}
