package daemon

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/host"
)

// A network that the host cannot have is told at the start, by doctor and by the check, each with its
// place, and keeps nobody from running tasks without it.
func TestUnusableNetwork(t *testing.T) {
	const text = "network \"lan\" {\n  mode    = \"bridged\"\n  bridge  = \"fjnothere\"\n  subnet4 = \"192.0.2.0/24\"\n}\n"
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, text)
	const place = `freejail.hcl:3: network "lan": `
	if !hasEvent(t, c, place, "fjnothere") {
		t.Error("no event tells of it")
	}
	report, err := c.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := false
	for _, check := range report {
		seen = seen || check.Name == "network lan" && check.Status == "error" && strings.Contains(check.Detail, place) &&
			check.Fix != ""
	}
	if !seen {
		t.Errorf("doctor: %+v", report)
	}
	cfg, err := host.LoadConfig(filepath.Join(dir, "freejail.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := host.CheckNetworks(cfg); err == nil || !strings.Contains(err.Error(), place) {
		t.Errorf("the check: %v", err)
	}
	cfg.Networks = nil
	if err := host.CheckNetworks(cfg); err != nil {
		t.Error(err)
	}
}
