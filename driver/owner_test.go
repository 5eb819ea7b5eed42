package driver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers/proto"

	"github.com/freejail/freejail/daemon/client"
)

// Where the host starts the daemon the plugin does not, and says who does. A daemon
// of another socket is not the host's.
func TestTheHostStartsTheDaemon(t *testing.T) {
	dir := t.TempDir()
	script, socket := filepath.Join(dir, "freejail"), filepath.Join(dir, "s")
	were := hostUnits
	t.Cleanup(func() { hostUnits = were })
	hostUnits = []unit{{script, "service freejail start", func() string { return socket }},
		{script + ".service", "systemctl start freejail", func() string { return "" }}}
	if who := hostStarts(socket); who != "" {
		t.Errorf("nothing is installed, and %s starts it", who)
	}
	for _, f := range []string{script, script + ".service"} {
		if err := os.WriteFile(f, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for at, want := range map[string]string{socket: script + " (service freejail start)", socket + "2": "",
		client.DefaultSocket: script + ".service (systemctl start freejail)"} {
		if who := hostStarts(at); who != want {
			t.Errorf("the daemon on %s is started by %q, want %q", at, who, want)
		}
	}
	var log strings.Builder
	d := New(hclog.New(&hclog.LoggerOptions{Output: &log}), "1")
	conf := taskConfig(t, map[string]any{"socket": socket, "log_file": filepath.Join(dir, "log"), "autostart": true})
	if err := d.SetConfig(&base.Config{PluginConfig: conf, AgentConfig: &base.AgentConfig{}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		fp := d.fingerprint(t.Context())
		if fp.Health != proto.FingerprintResponse_UNHEALTHY || !strings.Contains(fp.HealthDescription, script+
			" (service freejail start)") {
			t.Errorf("the health is %v: %s", fp.Health, fp.HealthDescription)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "log")); !os.IsNotExist(err) {
		t.Errorf("it started a daemon: %v", err)
	}
	if n := strings.Count(log.String(), script); n != 1 {
		t.Errorf("it is logged %d times: %s", n, log.String())
	}
}
