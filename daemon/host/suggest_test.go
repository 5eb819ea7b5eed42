package host

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// What is suggested is a valid configuration, whatever the host has.
func TestSuggestions(t *testing.T) {
	for want, f := range map[string]Found{
		"driver = \"auto\"":               {System: "linux", StateFS: "ext4", Subnet: "10.88.0.0/24"},
		"# For ZFS: zfs create":           {System: "freebsd", StateFS: "ufs", Pools: []Pool{{"tank", false}}},
		"zfs_dataset = \"tank/freejail\"": {System: "freebsd", StateFS: "ufs", Pools: []Pool{{"a", false}, {"tank", true}}},
		"zfs_dataset = \"a/freejail\"":    {System: "freebsd", StateFS: "zfs", Pools: []Pool{{"a", false}, {"b", false}}},
		"driver = \"readonly\"":           {System: "freebsd", StateFS: "nfs", NoNFS: "no client\nin the kernel"},
		"\nconsul {\n":                    {System: "freebsd", StateFS: "ufs", Consul: true, Nomad: true},
		"\n# consul {\n":                  {System: "freebsd", StateFS: "ufs"},
		"#   warning: racct: off\n#     -> echo 1\n# shutdown\n\n": {System: "freebsd", StateFS: "ufs", Lacks: []client.Check{
			{Name: "racct", Status: "warning", Detail: "off", Fix: "echo 1\nshutdown"}}},
		"beside what is above:\n#   error: pf: not\\nloaded\n# network \"lan\" {\n": {System: "freebsd", StateFS: "ufs",
			Subnet: "10.88.0.0/24", NetworkLacks: []client.Check{{Name: "pf", Status: "error", Detail: "not\nloaded"}}},
	} {
		text := f.Text()
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
		if _, err := parseConfig("/freejail.hcl", []byte(text)); err != nil {
			t.Errorf("%v in\n%s", err, text)
		}
	}
	f := Look(t.Context(), runtime.GOOS)
	if f.StateFS == "" {
		t.Errorf("this host: %+v", f)
	}
	cfg, err := parseConfig("/freejail.hcl", []byte(f.Text()))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range Examine(cfg, nil) { // what doctor will tell is told
		if told := strings.Contains(f.Text(), c.Status+": "+c.Name+": "); told != (c.Status != "ok" && c.Name != "user") {
			t.Errorf("%+v: told %v in\n%s", c, told, f.Text())
		}
	}
	taken := []netip.Prefix{netip.MustParsePrefix("10.88.0.7/16"), netip.MustParsePrefix("10.89.0.128/25")}
	if got := freeSubnet(taken); got != "10.90.0.0/24" {
		t.Error(got)
	}
	if got := freeSubnet([]netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}); got != "" {
		t.Error(got)
	}
}

// Whoever listens at an agent's port of this host leads root's question nowhere else.
func TestAgentsAreAskedThemselves(t *testing.T) {
	asked := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer elsewhere.Close()
	agent := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusFound))
	defer agent.Close()
	if !answers(t.Context(), agent.URL) {
		t.Error("the agent does not answer")
	}
	if elsewhere.Close(); asked { // after all requests
		t.Error("another address was asked")
	}
}
