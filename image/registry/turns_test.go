package registry

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// A registry that lets pulls wait takes its own turns and leaves some to others,
// and who waits can be cancelled.
func TestPullsTakeTurns(t *testing.T) {
	turns := newTurns()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	var releases []func()
	take := func(host string) {
		release, err := turns.take(ctx, host, false, false)
		check(t, err)
		releases = append(releases, release)
	}
	for range maxHostPulls {
		take("slow.example")
	}
	if _, err := turns.take(ended, "slow.example", false, false); !errors.Is(err, context.Canceled) {
		t.Errorf("one more pull of a registry: %v", err)
	}
	for i := range maxPulls - maxHostPulls {
		take(fmt.Sprintf("%d.example", i))
	}
	if _, err := turns.take(ended, "other.example", false, false); !errors.Is(err, context.Canceled) {
		t.Errorf("one more pull: %v", err)
	}
	for _, release := range releases {
		release()
	}
	take("slow.example")
	releases[len(releases)-1]()
	if len(turns.hosts) != 0 {
		t.Errorf("%d hosts are still known", len(turns.hosts))
	}
}

// Registries that only jobs have named leave turns to the others, and tasks to who pulls by hand.
func TestStrangersLeaveTurns(t *testing.T) {
	turns := newTurns()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	n := 0
	var releases []func()
	take := func(most int, task, stranger bool) {
		t.Helper()
		for ; n < most; n++ {
			release, err := turns.take(ctx, fmt.Sprintf("%d.example", n), task, stranger)
			check(t, err)
			releases = append(releases, release)
		}
		if _, err := turns.take(ended, "more.example", task, stranger); !errors.Is(err, context.Canceled) {
			t.Errorf("one more after %d: %v", most, err)
		}
	}
	for range 2 {
		take(maxStrangers, true, true)
		take(maxTaskPulls, true, false)
		take(maxPulls, false, true)
		for _, release := range releases {
			release()
		}
		if n, releases = 0, nil; len(turns.hosts) != 0 {
			t.Errorf("%d hosts are still known", len(turns.hosts))
		}
	}
}
