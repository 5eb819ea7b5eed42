package cli

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/freejail/freejail/daemon/client"
)

func TestPortFlag(t *testing.T) {
	for text, want := range map[string]struct {
		name string
		b    client.PortBinding
	}{
		"web=8080":           {"web", client.PortBinding{Port: 8080}},
		"web=127.0.0.1:8080": {"web", client.PortBinding{Address: "127.0.0.1", Port: 8080}},
		"web=[::1]:8080":     {"web", client.PortBinding{Address: "::1", Port: 8080}},
		"dns=53/udp":         {"dns", client.PortBinding{Port: 53, Protocol: "udp"}},
	} {
		var f runFlags
		if err := f.port(text); err != nil || f.Ports[want.name] != want.b {
			t.Errorf("%s: %+v %v, want %s %+v", text, f.Ports, err, want.name, want.b)
		}
		if err := f.port(text); err == nil {
			t.Errorf("%s was taken twice", text)
		}
	}
	for text, want := range map[string]client.Publication{
		"80":                     {Port: 80, To: 80, Protocol: "tcp"},
		"8081:8080/udp":          {Port: 8081, To: 8080, Protocol: "udp"},
		"127.0.0.1:8081:8080":    {Address: "127.0.0.1", Port: 8081, To: 8080, Protocol: "tcp"},
		"[::1]:8081:8080":        {Address: "::1", Port: 8081, To: 8080, Protocol: "tcp"},
		"8000-8010:8000-8010":    {Port: 8000, To: 8000, Count: 11, Protocol: "tcp"},
		"8000-8001:80-81/udp":    {Port: 8000, To: 80, Count: 2, Protocol: "udp"},
		"[2001:db8::1]:8080:80/": {},
	} {
		var f runFlags
		if err := f.port(text); (err == nil) != (want.Port != 0) || err == nil && !slices.Contains(f.Publish, want) {
			t.Errorf("%s: %+v %v, want %+v", text, f.Publish, err, want)
		}
		if err := f.port(text); err == nil {
			t.Errorf("%s was taken twice", text)
		}
	}
	for _, text := range []string{"", "web", "web=", "=80", "web=x", "8000-8010:80", "80:x", ":80", "80:", "0:80",
		"80:65536", "web=0", "80/sctp", "80/", "web=80/sctp"} {
		if err := (&runFlags{}).port(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

// Flags are those of other tools, and what freejail has not is refused with the words that help.
func TestNetworkFlags(t *testing.T) {
	for _, args := range [][]string{{"--network", "web"}, {"--net=web"}} {
		var f runFlags
		fl := pflag.NewFlagSet("", pflag.ContinueOnError)
		f.network(fl)
		err := fl.Parse(append(args, "--ip", "10.88.0.7", "--ip6", "fd00::7", "-p", "80", "--port", "web=81", "--publish",
			"82:82"))
		if err != nil || f.Network != "web" || !slices.Equal(f.Addresses, []string{"10.88.0.7", "fd00::7"}) ||
			len(f.Publish) != 2 || f.Ports["web"].Port != 81 {
			t.Errorf("%q: %+v %v", args, f.TaskSpec, err)
		}
	}
	for want, args := range map[string][]string{
		`share = "group"`:             {"--network", "container:web"},
		"has one network, and lan is": {"--network", "lan", "--network", "web"},
		"--ip or --ip6":               {"--network", "lan:ip=10.88.0.7"},
		"one address of IPv4":         {"--ip", "10.88.0.7", "--ip6", "fd00::7", "--ip", "10.88.0.8"},
		"by its name: http=8081":      {"-p", "8081:http"},
		"chooses no port":             {"-p", "127.0.0.1::8080"},
		"freejail networks":           {"--network", "ns:/run/netns/x"},
		"give it by --ip6":            {"--ip", "fd00::7"},
		"give it by --ip":             {"--ip6", "10.0.0.1"},
	} {
		fl := pflag.NewFlagSet("", pflag.ContinueOnError)
		(&runFlags{}).network(fl)
		if err := fl.Parse(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}

func TestPortsAreShown(t *testing.T) {
	v4 := &client.NetworkInfo{Addr4: netip.MustParseAddr("10.88.0.2")}
	both := &client.NetworkInfo{Addr4: v4.Addr4, Addr6: netip.MustParseAddr("fd00::2")}
	web := client.Port{Name: "web", Protocol: "tcp", Port: 8081, To: 8080}
	many := client.Port{Name: "many", Protocol: "udp", Address: "::1", Port: 8000, To: 9000, Count: 3}
	for want, c := range map[string]struct {
		n *client.NetworkInfo
		p client.Port
	}{
		"8080/tcp -> 0.0.0.0:8081\n":                        {v4, web},
		"8080/tcp -> 0.0.0.0:8081\n8080/tcp -> [::]:8081\n": {both, web},
		"9000-9002/udp -> [::1]:8000-8002\n":                {both, many},
		"53/udp -> 192.0.2.1:53\n":                          {nil, client.Port{Protocol: "udp", Address: "192.0.2.1", Port: 53}},
	} {
		var b bytes.Buffer
		if printPorts(&b, &client.Task{Network: c.n}, []client.Port{c.p}, false); b.String() != want {
			t.Errorf("%q, want %q", b.String(), want)
		}
	}
	for text, want := range map[string]bool{"8080": true, "8080/tcp": true, "web": true, "8081": false, "8080/udp": false,
		"9001/udp": true, "9003/udp": false, "": false} {
		if got := onePort([]client.Port{web, many}, text); (len(got) == 1) != want {
			t.Errorf("%q: %v", text, got)
		}
	}
	var b bytes.Buffer
	one := onePort([]client.Port{web, many}, "9001/udp")
	if printPorts(&b, &client.Task{}, one, true); b.String() != "[::1]:8001\n" {
		t.Errorf("one of a range is at %q", &b)
	}
}
