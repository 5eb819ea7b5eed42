package task

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// However many removals the kernel holds, others have their turn.
func TestLane(t *testing.T) {
	l := make(lane, 2)
	enter := func() (leave func()) {
		leave, err := l.enter(t.Context(), awayTime)
		if err != nil {
			t.Fatal(err)
		}
		return leave
	}
	enter()
	enter()
	leave := enter() // when the first two have had their time
	leave()
	enter()()
}

// Who waits for a turn can be told to wait no longer.
func TestLaneIsLeftWhileWaiting(t *testing.T) {
	l := make(lane, 1)
	leave, err := l.enter(t.Context(), awayTime)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("stopped")
	time.AfterFunc(time.Millisecond, func() { cancel(why) })
	if _, err := l.enter(ctx, awayTime); !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
	leave()
	leave, err = l.enter(t.Context(), awayTime)
	if err != nil {
		t.Fatal(err)
	}
	leave()
}

// A walk down that the kernel holds keeps nobody but itself.
func TestOneWalkAtATime(t *testing.T) {
	m := New(Host{})
	tk := &task{done: make(chan struct{})}
	w := newWalk() // that does not end
	tk.sweeping.walk = w
	if m.sweepUp(tk) != w {
		t.Error("a walk beside another one")
	}
	tk.info.State, tk.undos = client.Exited, []undo{{Op: "root"}}
	if tk.due(time.Now()) {
		t.Error("the janitor takes up what is under way")
	}
}

// A removal that is asked for again is waited for, and is an error only where something stays.
func TestRemovalOfWhatIsBeingRemoved(t *testing.T) {
	for _, stays := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			m, w := New(Host{}), newWalk()
			tk := &task{done: make(chan struct{}), destroyed: true}
			tk.info.ID, tk.info.Key, tk.info.State, tk.sweeping.walk = "one", "one", client.Exited, w
			m.left["one"] = tk
			go func() {
				time.Sleep(time.Second)
				m.mu.Lock()
				defer m.mu.Unlock()
				if !stays {
					delete(m.left, "one")
				}
				close(w.done)
			}()
			if err := m.Destroy(t.Context(), "one", true); (err != nil) != stays {
				t.Errorf("something stays: %v, the removal: %v", stays, err)
			}
		})
	}
}

// Of two who remove a task at the same time, as gc and its owner do, neither is done before it is gone.
func TestTwoRemoveATask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, w := New(Host{}), newWalk()
		tk := &task{done: make(chan struct{}), destroyed: true}
		tk.info.ID, tk.info.Key, tk.info.State, tk.sweeping.walk = "one", "one", client.Exited, w
		tk.info.Spec.ID = "one"
		tk.isOver()
		m.tasks["one"] = tk
		var other sync.WaitGroup
		other.Go(func() {
			time.Sleep(time.Second)
			close(w.done)
			m.letGo(tk)
		})
		defer other.Wait()
		if err := m.Destroy(t.Context(), "one", true); err != nil {
			t.Error(err)
		}
		if found, err := m.find("one"); found != nil {
			t.Errorf("it was removed, and is there: %v", err)
		}
	})
}
