package task

import (
	"fmt"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// Who does not take what is told is told no more, and others are.
func TestEndsThatAreNotTaken(t *testing.T) {
	var e endings
	slow, stopSlow := e.follow()
	fast, stopFast := e.follow()
	for i := range manyEnds + 1 {
		e.tell(client.Ended{ID: fmt.Sprint(i)})
		if got := <-fast; got.ID != fmt.Sprint(i) {
			t.Fatalf("%q was told, not %d", got.ID, i)
		}
	}
	n := 0
	for range slow {
		n++
	}
	if n != manyEnds {
		t.Errorf("%d were told before the channel was closed", n)
	}
	stopSlow()
	stopFast()
	if e.tell(client.Ended{ID: "last"}); len(e.to) != 0 || len(fast) != 0 {
		t.Errorf("%d still follow", len(e.to))
	}
}
