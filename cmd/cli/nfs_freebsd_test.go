package cli

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testnfs"
)

// What an operator sees of a task whose image the host does not have.
func TestRunOverNFS(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	server, err := testnfs.Start(t.TempDir())
	if errors.Is(err, testnfs.ErrUnavailable) {
		t.Skip(err)
	}
	check(t, err)
	t.Cleanup(func() { check(t, server.Close()) })
	builder := newHost(t, "nfs {\n  export {\n    dir = \""+server.Roots+"\"\n    clients = [\""+testnfs.Network+
		"\"]\n  }\n}\n")
	builder.gives(0, []string{"prog sha256:"}, "export", "prog")
	check(t, server.Export(builder.path("state/exports")))

	runner := newHost(t, "permit {\n  nfs = true\n}\nnfs {\n  servers = [\""+testnfs.URL+
		"\"]\n  timeout = \"5s\"\n  every = \"500ms\"\n  keep = \"0s\"\n}\n")
	runner.gives(0, nil, "images", "rm", "prog")
	runner.gives(0, nil, "gc")
	runner.gives(exitUnknown, []string{"not on this host"}, "run", "prog", "say", "x")
	if r := runner.freejail("doctor"); !strings.Contains(r.out, "ok       nfs server   "+testnfs.URL) {
		t.Errorf("doctor:\n%s", r.out)
	}
	runner.gives(0, []string{"from afar\n"}, "run", "--storage", "nfs", "prog", "say", "from afar")
	runner.gives(0, nil, "run", "-d", "--storage", testnfs.URL, "--name", "one", "prog")
	if task := decoded[client.Task](runner, "inspect", "one"); task.Storage != "nfs" || task.State != client.Running {
		t.Errorf("one is %+v", task)
	}
	check(t, server.Unplug())
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if r := runner.freejail("ps"); strings.Contains(r.out, "running (unhealthy)") {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("ps does not tell:\n%s", r.out)
		}
	}
	runner.gives(exitUnknown, []string{"one", "has not answered"}, "exec", "one", "/bin/prog", "inside", "say", "x")
	runner.gives(0, []string{"unhealthy", testnfs.URL}, "events")
	runner.gives(app.Failed, []string{"nfs mount"}, "doctor")
	runner.gives(0, nil, "stop", "one")
	runner.gives(0, nil, "rm", "one")
	check(t, server.Plug())
}
