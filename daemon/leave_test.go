package daemon

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testconsul"
)

// A task that is stopped is out of Consul for as long as it says before it gets its signal, also where nobody waits
// for its end; one that is to be killed does not wait.
func TestLeavesBeforeItsSignal(t *testing.T) {
	agent := testconsul.New(t)
	agent.Start()
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, fmt.Sprintf(
		"consul {\n  address = %q\n}\npermit {\n  ports = [\"1024-65535\"]\n  services = [\"web\"]\n}\n", agent.Addr))
	path := archive(t, withService)
	start := func(delay time.Duration) error {
		_, err := c.Start(t.Context(), client.TaskSpec{ID: "leaves", Owner: "cli", Image: path,
			Service: client.Overrides{ShutdownDelay: client.Duration(delay)}})
		return err
	}
	for _, late := range []time.Duration{-time.Second, time.Hour} {
		if err := start(late); err == nil || !strings.Contains(err.Error(), "shutdown_delay") {
			t.Errorf("%s: %v", late, err)
		}
	}
	const delay = 2 * time.Second
	for _, timeout := range []time.Duration{time.Minute, 0} {
		if err := start(delay); err != nil {
			t.Fatal(err)
		}
		agent.AwaitServices("freejail-leaves-http")
		began := time.Now()
		ctx, leave := context.WithTimeout(t.Context(), delay/4)
		_, err := c.Stop(ctx, "leaves", client.StopRequest{Timeout: client.Duration(timeout)})
		leave()
		exit, waitErr := c.Wait(t.Context(), "leaves")
		if waitErr != nil {
			t.Fatal(waitErr)
		}
		signalled, waited := exit.Code == 3, exit.At.Sub(began) >= delay
		if want := timeout > 0; signalled != want || waited != want || err == nil && want {
			t.Errorf("timeout %s: exit %+v after %s, %v", timeout, exit, exit.At.Sub(began), err)
		}
		agent.AwaitServices()
		if err := c.Destroy(t.Context(), "leaves", true); err != nil {
			t.Fatal(err)
		}
	}
	nothingLeft(t, dir)
}
