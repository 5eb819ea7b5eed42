package network

import (
	"strings"
	"testing"
)

// What kern.securelevel forbids is told before a start fails by it.
func TestSecurelevel(t *testing.T) {
	all, none := func(string) bool { return true }, func(string) bool { return false }
	for _, c := range []struct {
		mode   Mode
		level  int
		loaded func(string) bool
		want   string
	}{
		{NAT, 0, none, ""}, {NAT, -1, none, ""}, {NAT, 2, all, ""}, {Alias, 3, none, ""}, {Bridged, 3, all, ""},
		{NAT, 1, none, `sysrc kld_list+="if_epair if_bridge"`}, {Bridged, 1, none, `sysrc kld_list+="if_epair"`},
		{NAT, 3, all, "pf's rules"},
	} {
		err := secured(Network{Mode: c.mode}, c.level, c.loaded)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s at level %d: %v, want %q", c.mode, c.level, err, c.want)
		}
	}
}
