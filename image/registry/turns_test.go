package registry

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sync/semaphore"
)

// A registry that lets pulls wait takes its own turns and leaves some to others,
// and who waits can be cancelled.
func TestPullsTakeTurns(t *testing.T) {
	turns := &turns{all: semaphore.NewWeighted(maxPulls), hosts: map[string]*hostTurns{}}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	var releases []func()
	take := func(host string) {
		release, err := turns.take(ctx, host)
		check(t, err)
		releases = append(releases, release)
	}
	for range maxHostPulls {
		take("slow.example")
	}
	if _, err := turns.take(ended, "slow.example"); !errors.Is(err, context.Canceled) {
		t.Errorf("one more pull of a registry: %v", err)
	}
	for i := range maxPulls - maxHostPulls {
		take(fmt.Sprintf("%d.example", i))
	}
	if _, err := turns.take(ended, "other.example"); !errors.Is(err, context.Canceled) {
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
