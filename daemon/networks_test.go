package daemon

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
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

const testNetworks = `
default_network = "web"
network "web" {
  mode    = "nat"
  subnet4 = "10.211.3.0/24"
  subnet6 = "fd00:211:3::/64"
}
network "pub" {
  mode      = "alias"
  interface = "fjnone0"
  subnet4   = "10.211.4.0/24"
  pool4     = "10.211.4.10-10.211.4.13"
}
`

func TestNetworksAreListed(t *testing.T) {
	c, _ := daemonAt(t, shortDir(t), testNetworks)
	list, err := c.Networks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	by := map[string]client.NetworkStatus{}
	for _, n := range list {
		names, by[n.Name] = append(names, n.Name), n
	}
	if want := []string{"host", "none", "web", "pub"}; !slices.Equal(names, want) {
		t.Fatalf("%q", names)
	}
	web, pub := by["web"], by["pub"]
	if web.Mode != "nat" || web.Bridge != "fj-web" || !web.Default || web.Used != 0 || web.Size != 253 ||
		!slices.Equal(web.Subnets, []string{"10.211.3.0/24", "fd00:211:3::/64"}) ||
		!slices.Equal(web.Gateways, []string{"10.211.3.1", "fd00:211:3::1"}) ||
		!slices.Equal(web.HostAccess, []string{"53/udp", "53/tcp"}) {
		t.Errorf("%+v", web)
	}
	if pub.Size != 4 || !slices.Equal(pub.Pools, []string{"10.211.4.10-10.211.4.13"}) ||
		len(pub.Problems) != 1 || !strings.Contains(pub.Problems[0], "fjnone0") || by["host"].Default {
		t.Errorf("%+v", pub)
	}
	var out bytes.Buffer
	if err := c.Metrics(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`freejail_network_addresses{network="web"} 253`,
		`freejail_network_addresses_used{network="pub"} 0`, `freejail_network_faulty{network="pub"} 1`,
		"freejail_published_sockets 0", "freejail_published_sockets_max ", "freejail_forward_drops_total 0"} {
		if !strings.Contains(out.String(), "\n"+want) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
}

// doctor tells of networks that the file has in another way than the daemon.
func TestDoctorKnowsTheFile(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, testNetworks)
	told := func(words ...string) bool {
		t.Helper()
		report, err := c.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(report, func(check client.Check) bool {
			return check.Name == "networks" && check.Fix == "freejail daemon --upgrade" &&
				!slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(check.Detail, w) })
		})
	}
	if told() {
		t.Error("nothing has changed")
	}
	file := filepath.Join(dir, "freejail.hcl")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(strings.Replace(string(text), "10.211.3.0", "10.211.5.0", 1), `"pub"`, `"other"`, 1)
	if err := os.WriteFile(file, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	if !told("does not know of it yet: pub, web, other") {
		t.Error("doctor is silent")
	}
	_, err = c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: archive(t, greeting), Network: "other"})
	if err == nil || !strings.Contains(err.Error(), "does not know of it yet: `freejail daemon --upgrade`") {
		t.Errorf("a task on a network of the file: %v", err)
	}
}
