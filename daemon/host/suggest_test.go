package host

import (
	"net/netip"
	"runtime"
	"strings"
	"testing"
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
	} {
		text := f.Text()
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
		if _, err := parseConfig("/freejail.hcl", []byte(text)); err != nil {
			t.Errorf("%v in\n%s", err, text)
		}
	}
	if f := Look(t.Context(), runtime.GOOS); f.StateFS == "" {
		t.Errorf("this host: %+v", f)
	}
	taken := []netip.Prefix{netip.MustParsePrefix("10.88.0.7/16"), netip.MustParsePrefix("10.89.0.128/25")}
	if got := freeSubnet(taken); got != "10.90.0.0/24" {
		t.Error(got)
	}
	if got := freeSubnet([]netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}); got != "" {
		t.Error(got)
	}
}
