package task

import (
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

func TestBindingsThatMeet(t *testing.T) {
	for _, c := range []struct {
		a, b string
		meet bool
	}{
		{"127.0.0.1", "127.0.0.1", true}, {"127.0.0.1", "127.0.0.2", false}, {"127.0.0.1", "0.0.0.0", true},
		{"127.0.0.1", "::", true}, {"127.0.0.1", "", true},
		{"127.0.0.1", "::1", false}, {"0.0.0.0", "::1", false}, {"0.0.0.0", "::", true}, {"::", "::1", true},
		{"::1", "::1", true}, {"::1", "::2", false},
		{"::ffff:127.0.0.1", "127.0.0.1", true}, {"", "::1", true}, {"fe80::1%lo0", "fe80::1%lo1", false},
		{"0:0:0:0:0:0:0:1", "::1", true}, {"localhost", "::1", true},
	} {
		one, two := bindingOf(client.Port{Address: c.a, Port: 80, Protocol: "tcp"}),
			bindingOf(client.Port{Address: c.b, Port: 80, Protocol: "tcp"})
		if one.meets(two) != c.meet || two.meets(one) != c.meet {
			t.Errorf("%q and %q: want %v", c.a, c.b, c.meet)
		}
		two.protocol = "udp"
		if one.meets(two) {
			t.Errorf("%q and %q: tcp met udp", c.a, c.b)
		}
		two.protocol, two.port = "tcp", 81
		if one.meets(two) {
			t.Errorf("%q and %q: 80 met 81", c.a, c.b)
		}
	}
}
