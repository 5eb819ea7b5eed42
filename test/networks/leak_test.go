package networks

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testhost"
)

// together is how many tasks start at once.
const together = 20

// many is how many starts and ends there are: FREEJAIL_STARTS, by default few enough for a test of every change.
func many(t *testing.T) int {
	n, err := strconv.Atoi(cmp.Or(os.Getenv("FREEJAIL_STARTS"), "60"))
	check(t, err)
	return n
}

// givenAddresses are those that living tasks have.
type givenAddresses struct {
	mu   sync.Mutex
	of   map[string]string // by the address
	errs []error
}

func (g *givenAddresses) take(i *client.Task) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range []string{i.Network.Addr4.String(), i.Network.Addr6.String(), i.Network.MAC, i.Network.Link} {
		if other := g.of[a]; other != "" {
			g.errs = append(g.errs, fmt.Errorf("%s is of %s and of %s", a, other, i.Spec.ID))
		}
		g.of[a] = i.Spec.ID
	}
}

func (g *givenAddresses) release(i *client.Task) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range []string{i.Network.Addr4.String(), i.Network.Addr6.String(), i.Network.MAC, i.Network.Link} {
		delete(g.of, a)
	}
}

// oneTask starts and ends one. How it ends is another each time.
func (h *host) oneTask(t *testing.T, g *givenAddresses, n int) error {
	ctx := t.Context()
	spec := client.TaskSpec{ID: id("leak"), Owner: "cli", Image: "prog", Network: "lan", Command: "serve",
		Args: []string{"leak", "8080"}}
	publish(t, fmt.Sprintf("%d:8080", 20000+n%1000), fmt.Sprintf("127.0.0.1:%d:8080/udp", 20000+n%1000))(&spec)
	i, err := h.Start(ctx, spec)
	if err != nil {
		return err
	}
	g.take(i)
	if n%3 == 0 {
		if out, err := here("ask", "tcp", fmt.Sprintf("127.0.0.1:%d", 20000+n%1000)); err != nil && n%2 == 0 {
			t.Logf("task %d: %s %v", n, out, err) // it may not listen yet
		}
	}
	g.release(i) // before others can get them
	if n%2 == 0 {
		_, err = h.Stop(ctx, spec.ID, client.StopRequest{Signal: "SIGKILL"})
	}
	return errors.Join(err, h.Destroy(ctx, spec.ID, true))
}

// inTurns runs f for 0 to n-1, so many at once.
func inTurns(n int, f func(int) error) error {
	errs, free := make([]error, n), make(chan struct{}, together)
	var wg sync.WaitGroup
	for i := range n {
		free <- struct{}{}
		wg.Go(func() {
			errs[i] = f(i)
			<-free
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// TestNothingIsLeft starts and ends tasks in networks, and holds the host against what it was.
func TestNothingIsLeft(t *testing.T) {
	h := newHost(t)
	g := &givenAddresses{of: map[string]string{}}
	lives := h.task(t, "lives", "lan", publish(t, "18081:8080"), "8080")
	check(t, h.oneTask(t, g, 1))
	before := left(t, h.dir)
	if err := inTurns(many(t), func(n int) error { return h.oneTask(t, g, n) }); err != nil {
		t.Error(err)
	}
	h.isAsBefore(t, before)
	for _, err := range g.errs {
		t.Error(err)
	}
	if again, err := h.Task(t.Context(), lives.Spec.ID); err != nil || *again.Network != *lives.Network {
		t.Errorf("the task that lives had %+v and has %+v: %v", lives.Network, again, err)
	}
	reached(t, "the task that lives", "lives")(outside("ask", "tcp", hostAddr4+":18081"))
}

// left is all of the host that tasks' networks have, a line each.
func left(t *testing.T, dir string) []string {
	t.Helper()
	out, err := testhost.Networks("10.188.", "fd00:188:")
	check(t, err)
	for _, pattern := range leftovers {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		check(t, err)
		out = append(out, found...)
	}
	return out
}

func (h *host) isAsBefore(t *testing.T, before []string) {
	t.Helper()
	await(t, "the host to be as before", func() error {
		now := left(t, h.dir)
		var more, less []string
		for _, line := range now {
			if !slices.Contains(before, line) {
				more = append(more, line)
			}
		}
		for _, line := range before {
			if !slices.Contains(now, line) {
				less = append(less, line)
			}
		}
		if len(more)+len(less) > 0 {
			return fmt.Errorf("more:\n%s\nless:\n%s", strings.Join(more, "\n"), strings.Join(less, "\n"))
		}
		return nil
	})
}

// TestKilledBetweenStarts kills the daemon while tasks start and end, again and again.
func TestKilledBetweenStarts(t *testing.T) {
	h := newHost(t)
	g := &givenAddresses{of: map[string]string{}}
	lives := h.task(t, "lives", "lan", publish(t, "18081:8080"), "8080")
	check(t, h.oneTask(t, g, 1))
	before := left(t, h.dir)
	for round := range 5 {
		done := make(chan error, 1)
		go func() { done <- inTurns(together, func(n int) error { return h.oneTask(t, g, round*together+n) }) }()
		for began := false; !began; {
			tasks, err := h.Tasks(t.Context())
			check(t, err)
			began = len(tasks) > round+3
		}
		h.kill(t)
		h.start(t)
		t.Logf("round %d: %v", round, <-done) // most were told that the daemon is gone
		check(t, h.destroyAllBut(t, lives.Spec.ID))
		h.isAsBefore(t, before)
	}
	if again, err := h.Task(t.Context(), lives.Spec.ID); err != nil || *again.Network != *lives.Network {
		t.Errorf("the task that lives had %+v and has %+v: %v", lives.Network, again, err)
	}
	reached(t, "the task that lives", "lives")(here("ask", "tcp", "127.0.0.1:18081"))
}

func (h *host) destroyAllBut(t *testing.T, kept string) error {
	tasks, err := h.Tasks(t.Context())
	for _, task := range tasks {
		if task.Spec.ID != kept {
			err = errors.Join(err, h.Destroy(t.Context(), task.Spec.ID, true))
		}
	}
	return err
}
