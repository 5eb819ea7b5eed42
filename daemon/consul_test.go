package daemon

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testconsul"
)

const withService = `{"schemaVersion":1,"ports":[{"name":"http","port":8080,"service":{"name":"web"}}]}`

// Where the daemon is killed round the registration, the next one has a task
// that runs and is in Consul, or one that has ended and is not.
func TestKilledRoundConsul(t *testing.T) {
	agent := testconsul.New(t)
	agent.Start()
	path := archive(t, withService)
	host := fmt.Sprintf(
		"consul {\n  address = %q\n}\npermit {\n  ports = [\"1024-65535\"]\n  services = [\"web\"]\n}\n", agent.Addr)
	for i, c := range []struct {
		point string
		start bool // where it is killed: in a start, or else in a stop
	}{{"service:journalled", true}, {"service:done", true}, {"service:undone", false}, {"service:forgotten", false}} {
		t.Run(c.point, func(t *testing.T) {
			dir, id := shortDir(t), fmt.Sprintf("c%d-%d", os.Getpid(), i)
			t.Setenv("FREEJAIL_FAULT_POINT", c.point)
			daemon, stop := daemonAt(t, dir, host)
			_, err := daemon.Start(t.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: path})
			if !c.start {
				if err != nil {
					t.Fatal(err)
				}
				agent.AwaitServices("freejail-" + id + "-http")
				_, err = daemon.Stop(t.Context(), id, client.StopRequest{Timeout: client.Duration(time.Minute)})
			}
			wasKilled(t, err, stop)
			daemon, _ = daemonAt(t, dir, host)
			want := client.Exited
			if c.start {
				want = client.Running
				agent.AwaitServices("freejail-" + id + "-http")
			}
			if task, err := daemon.Task(t.Context(), id); err != nil || task.State != want {
				t.Errorf("%+v %v, want it %s", task, err, want)
			}
			if err := daemon.Destroy(t.Context(), id, true); err != nil {
				t.Fatal(err)
			}
			agent.AwaitServices()
			nothingLeft(t, dir)
		})
	}
}
