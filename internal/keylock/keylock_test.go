package keylock

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

func TestOneAtATime(t *testing.T) {
	var m Map
	var wg sync.WaitGroup
	inside := 0
	for range 50 {
		wg.Go(func() {
			unlock, err := m.Lock(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			if inside++; inside != 1 {
				t.Errorf("%d are inside", inside)
			}
			time.Sleep(time.Millisecond / 10)
			inside--
		})
	}
	wg.Wait()
	if len(m.locks) != 0 {
		t.Errorf("%d locks stay", len(m.locks))
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	var m Map
	unlock, err := m.Lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := m.Lock(t.Context(), "b") // is not in the way
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := m.Lock(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting ended with %v", err)
	}
	unlock()
	if unlock, err = m.Lock(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	unlock()
	if len(m.locks) != 0 {
		t.Errorf("%d locks stay", len(m.locks))
	}
}
