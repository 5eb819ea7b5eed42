package task

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// However many removals the kernel holds, others have their turn.
func TestLane(t *testing.T) {
	l := make(lane, 2)
	l.enter()
	l.enter()
	leave := l.enter() // when the first two have had their time
	leave()
	l.enter()()
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
