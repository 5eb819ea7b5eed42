package task

import (
	"errors"
	"testing"
	"time"
)

// What all measurements cost together is bounded, and a task that ended waits for
// no turn.
func TestTurns(t *testing.T) {
	var w turns
	begun := time.Now()
	for range 10 {
		if err := w.wait(1024, nil); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begun); took < 9*1024*diskEntry {
		t.Errorf("10,240 entries were gone through in %s", took)
	}
	ended := make(chan struct{})
	close(ended)
	w.next = time.Now().Add(time.Hour)
	if err := w.wait(1, ended); !errors.Is(err, errEnded) {
		t.Errorf("a task that has ended: %v", err)
	}
}
