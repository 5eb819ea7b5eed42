package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// Each request is answered by the daemon before an upgrade or by the one after it, whatever it is about: refusals that
// come because of the upgrade too.
func TestAnswersOverUpgrades(t *testing.T) {
	c, _ := daemonAt(t, shortDir(t), "")
	if _, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: archive(t, ""),
		Args: []string{"inside"}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for what, ask := range map[string]struct {
		call func(*client.Client) error
		want string // of the error; none is ""
	}{
		"a start that is refused": {func(c *client.Client) error {
			_, err := c.Start(t.Context(), client.TaskSpec{ID: "two", Owner: "cli", Image: "nothere"})
			return err
		}, "not on this host"},
		"a start of what is there": {func(c *client.Client) error {
			_, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: "nothere"})
			return err
		}, "one"},
		"a signal": {func(c *client.Client) error { return c.Signal(t.Context(), "one", "SIGWHAT") }, "SIGWHAT"},
		"an exec": {func(c *client.Client) error {
			_, err := c.Exec(t.Context(), "nobody", client.ExecSpec{Args: []string{"x"}}, client.ExecIO{})
			return err
		}, "nobody"},
		"a removal": {func(c *client.Client) error { return c.Destroy(t.Context(), "one", false) }, "one"},
		"a collection": {func(c *client.Client) error {
			_, err := c.GC(t.Context(), client.GCRequest{})
			return err
		}, ""},
		"a question": {func(c *client.Client) error { _, err := c.Tasks(t.Context()); return err }, ""},
		"a question of somebody else": {func(c *client.Client) error {
			_, err := client.New(c.Socket()).DiskUse(t.Context())
			return err
		}, ""},
		"a log": {func(c *client.Client) error {
			return client.New(c.Socket()).Logs(t.Context(), "one", "stdout", false, -1, new(strings.Builder))
		}, ""},
	} {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := ask.call(c)
				if said := fmt.Sprint(err); ask.want == "" && err != nil || !strings.Contains(said, ask.want) ||
					slices.ContainsFunc([]error{client.ErrBrokenOff, client.ErrNoDaemon}, func(e error) bool {
						return strings.Contains(said, e.Error())
					}) {
					t.Errorf("%s: %v", what, err)
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	for range 20 {
		if _, err := c.Upgrade(t.Context(), client.UpgradeRequest{}); err != nil {
			t.Error(err)
		}
	}
	cancel()
	wg.Wait()
	if err := c.Destroy(t.Context(), "one", true); err != nil {
		t.Error(err)
	}
}
