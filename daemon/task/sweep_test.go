package task

import (
	"testing"
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
