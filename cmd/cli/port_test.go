package cli

import (
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

func TestPortFlag(t *testing.T) {
	for text, want := range map[string]struct {
		name string
		b    client.PortBinding
	}{
		"web=8080":              {"web", client.PortBinding{Port: 8080}},
		"web=127.0.0.1:8080":    {"web", client.PortBinding{Address: "127.0.0.1", Port: 8080}},
		"web=[::1]:8080":        {"web", client.PortBinding{Address: "::1", Port: 8080}},
		"dns=53/udp":            {"dns", client.PortBinding{Port: 53, Protocol: "udp"}},
		"80":                    {"80", client.PortBinding{Port: 80, To: 80}},
		"8080:80":               {"80", client.PortBinding{Port: 8080, To: 80}},
		"8080:80/tcp":           {"80", client.PortBinding{Port: 8080, To: 80, Protocol: "tcp"}},
		"53:53/udp":             {"53-udp", client.PortBinding{Port: 53, To: 53, Protocol: "udp"}},
		"127.0.0.1:8080:80":     {"80", client.PortBinding{Address: "127.0.0.1", Port: 8080, To: 80}},
		"[2001:db8::1]:8080:80": {"80", client.PortBinding{Address: "2001:db8::1", Port: 8080, To: 80}},
	} {
		var f runFlags
		if err := f.port(text); err != nil || f.Ports[want.name] != want.b {
			t.Errorf("%s: %+v %v, want %s %+v", text, f.Ports, err, want.name, want.b)
		}
		if err := f.port(text); err == nil {
			t.Errorf("%s was taken twice", text)
		}
	}
	for _, text := range []string{"", "web", "web=", "=80", "web=x", "8000-8010:80", "80:x", ":80", "80:", "0:80",
		"80:65536", "web=0", "80/sctp", "80/"} {
		if err := (&runFlags{}).port(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}
