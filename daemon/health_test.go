package daemon

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// On a host without Consul the daemon makes the checks of an image itself, also the next daemon.
func TestChecksOfAnImage(t *testing.T) {
	dir := shortDir(t)
	const permit = "permit {\n  ports = [\"8080\"]\n}\n"
	c, stop := daemonAt(t, dir, permit)
	path := archive(t, `{"schemaVersion":1,"ports":[{"name":"http","port":8080,"service":{"check":{"type":"tcp","interval":"1s"}}}]}`)
	if _, err := c.Start(t.Context(), client.TaskSpec{ID: "checked", Owner: "cli", Image: path}); err != nil {
		t.Fatal(err)
	}
	unhealthy := func() {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			task, err := c.Task(t.Context(), "checked")
			s := task.Services
			if err == nil && len(s) == 1 && s[0].Health == "unhealthy" && strings.Contains(s[0].Output, "refused") &&
				!s[0].Registered {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the services are %+v: %v", s, err)
			}
		}
	}
	unhealthy()
	err := c.Events(t.Context(), 0, true, func(e client.Event) error {
		if e.Task == "checked" && e.Kind == "check" {
			return fmt.Errorf("%w: %s", errEnough, e.Message)
		}
		return nil
	})
	if !strings.Contains(fmt.Sprint(err), "the check of port http fails: dial tcp 127.0.0.1:8080") {
		t.Errorf("the event is %v", err)
	}
	stop(killed)
	c, _ = daemonAt(t, dir, permit)
	unhealthy()
	if err := c.Destroy(t.Context(), "checked", true); err != nil {
		t.Error(err)
	}
	nothingLeft(t, dir)
}
