package testpf

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const anchors = "nat-anchor \"freejail\"\nrdr-anchor \"freejail\"\nanchor \"freejail\"\n"

// Use has the host be fit for networks of mode nat. It needs root. A pf that runs is used as it is, and has the test
// skipped where its rules do not name the anchors; nobody's rules are changed.
func Use(t testing.TB) {
	t.Helper()
	for _, name := range []string{"net.inet.ip.forwarding", "net.inet6.ip6.forwarding"} {
		before := call(t, "sysctl", "-n", name)
		call(t, "sysctl", name+"=1")
		t.Cleanup(func() { call(t, "sysctl", name+"="+before) })
	}
	if exec.Command("pfctl", "-q", "-s", "Running").Run() == nil {
		if !strings.Contains(mainRules(t), `anchor "freejail"`) {
			t.Skip("the rules of this host's pf do not name freejail's anchors")
		}
		return
	}
	enable(t)
}

func enable(t testing.TB) {
	t.Helper()
	if loaded := exec.Command("kldstat", "-q", "-m", "pf").Run() == nil; !loaded {
		call(t, "kldload", "pf")
		t.Cleanup(func() { call(t, "kldunload", "pf") })
	} else if mainRules(t) != "" {
		t.Skip("this host has rules for pf, which does not run")
	}
	rules := filepath.Join(t.TempDir(), "pf.conf")
	if err := os.WriteFile(rules, []byte(anchors), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		call(t, "pfctl", "-q", "-d")
		call(t, "pfctl", "-q", "-a", "freejail", "-F", "all")
		call(t, "pfctl", "-q", "-F", "all")
	})
	call(t, "pfctl", "-q", "-f", rules)
	call(t, "pfctl", "-q", "-e")
}

func mainRules(t testing.TB) string {
	t.Helper()
	return call(t, "pfctl", "-q", "-s", "nat") + call(t, "pfctl", "-q", "-s", "rules")
}

func call(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}
