package task

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/network"
)

// fakeConfig are networks of each mode.
var fakeConfig = []network.Network{
	{Name: "lan", Mode: network.NAT, Subnet4: netip.MustParsePrefix("10.88.0.0/24"),
		Pool4:    network.Range{First: netip.MustParseAddr("10.88.0.2"), Last: netip.MustParseAddr("10.88.0.99")},
		Gateway4: netip.MustParseAddr("10.88.0.1"), HostAccess: []network.Port{{Protocol: "udp", First: 53}}},
	{Name: "office", Mode: network.Bridged, Subnet4: netip.MustParsePrefix("192.0.2.0/24"),
		Pool4: network.Range{First: netip.MustParseAddr("192.0.2.2"), Last: netip.MustParseAddr("192.0.2.99")}},
	{Name: "wire", Mode: network.Alias, Subnet4: netip.MustParsePrefix("198.51.100.0/24"),
		Pool4: network.Range{First: netip.MustParseAddr("198.51.100.2"), Last: netip.MustParseAddr("198.51.100.99")}},
}

// onNetwork plans the ports of an image on a network of a host.
func onNetwork(name string, img *image.Image, spec client.TaskSpec) (*plan, error) {
	m := &Manager{Host: Host{Config: host.Config{Networks: fakeConfig}}}
	p := &plan{image: img, params: map[string]string{}}
	spec.Network = name
	err := m.addNetwork(p, spec)
	if err == nil {
		p.requests = nil
		err = p.addPorts(spec)
	}
	return p, err
}

func published(texts ...string) (out []client.Publication) {
	for _, text := range texts {
		p, err := client.ParsePublication(text)
		if err != nil {
			panic(err)
		}
		out = append(out, p)
	}
	return out
}

// A port of a task with addresses of its own is where its program listens there, and a port of the host
// leads to it where the network translates.
func TestPortsOnNetworks(t *testing.T) {
	web, admin := image.Port{Name: "http", Port: 8080}, image.Port{Name: "admin", Port: 8081}
	offered := func(b client.PortBinding) client.PortBinding { b.Offered = true; return b }
	to := func(b client.PortBinding, n int) client.PortBinding { b.To = n; return b }
	for name, c := range map[string]struct {
		network            string
		img                *image.Image
		ports              map[string]client.PortBinding
		publish            []client.Publication
		noPorts            bool
		want, asked, noted string
	}{
		"declared alone": {network: "lan", img: portImage(true, web, admin), want: "http=:0>8080/tcp admin=:0>8081/tcp"},
		"a label": {network: "lan", img: portImage(true, web, admin),
			ports: map[string]client.PortBinding{"http": bound("http", 20001)},
			want:  "http=10.0.0.1:20001>8080/tcp admin=:0>8081/tcp", asked: "job port:20001/tcp"},
		"a label with to": {network: "lan", img: portImage(true, web),
			ports: map[string]client.PortBinding{"http": to(bound("http", 20001), 9090)},
			want:  "http=10.0.0.1:20001>9090/tcp", asked: "job port:20001/tcp"},
		"another label with to": {network: "lan", img: portImage(true, web),
			ports: map[string]client.PortBinding{"www": to(bound("www", 20001), 8080)},
			want:  "http=10.0.0.1:20001>8080/tcp www=10.0.0.1:20001>8080/tcp*", asked: "job port:20001/tcp"},
		"a label of another task": {network: "lan", img: portImage(true, web),
			ports: map[string]client.PortBinding{"http": offered(bound("http", 20001)), "db": offered(bound("db", 20002))},
			want:  "http=10.0.0.1:20001>8080/tcp", asked: "job port:20001/tcp",
			noted: "port db of the group is not led to this task: image img declares no such port; it declares: http; if " +
				"it is this task's all the same, name it in config { ports = [...] }"},
		"an image without a manifest": {network: "lan", img: portImage(false, image.Port{Name: "80", Port: 80}),
			ports: map[string]client.PortBinding{"www": to(bound("www", 20001), 80)},
			want:  "80=10.0.0.1:20001>80/tcp www=10.0.0.1:20001>80/tcp*", asked: "job port:20001/tcp"},
		"published": {network: "lan", img: portImage(true, web), publish: published("127.0.0.1:81:8080", "5353:53/udp"),
			want:  "http=127.0.0.1:81>8080/tcp 53-udp=:5353>53/udp*",
			asked: "job publish:127.0.0.1:81/tcp job publish:*:5353/udp"},
		"twice": {network: "lan", img: portImage(false), publish: published("127.0.0.1:81:80", "127.0.0.2:81:80"),
			want:  "80=127.0.0.1:81>80/tcp* 80.2=127.0.0.2:81>80/tcp*",
			asked: "job publish:127.0.0.1:81/tcp job publish:127.0.0.2:81/tcp"},
		"twice, one that is declared": {network: "lan", img: portImage(true, web),
			publish: published("127.0.0.1:82:8080", "81:8080", "127.0.0.2:83:8080"),
			want:    "http=127.0.0.1:82>8080/tcp 8080.2=:81>8080/tcp* 8080.3=127.0.0.2:83>8080/tcp*",
			asked:   "job publish:127.0.0.1:82/tcp job publish:*:81/tcp job publish:127.0.0.2:83/tcp"},
		"a label and one that is published": {network: "lan", img: portImage(true, web), publish: published("81:8080"),
			ports: map[string]client.PortBinding{"www": to(bound("www", 20001), 8080)},
			want:  "http=10.0.0.1:20001>8080/tcp 8080=:81>8080/tcp* www=10.0.0.1:20001>8080/tcp*",
			asked: "job port:20001/tcp job publish:*:81/tcp"},
		"a range": {network: "lan", img: portImage(true, web), publish: published("9000-9009:8075-8084"),
			want:  "http=:9005>8080/tcp 8075-8079=:9000>8075/tcp*x5 8081-8084=:9006>8081/tcp*x4",
			asked: "job publish:*:9005/tcp job publish:*:9000-9004/tcp job publish:*:9006-9009/tcp"},
		"a range with all that the image has": {network: "lan", img: portImage(true, web, admin),
			publish: published("9000-9002:8080-8082"),
			want:    "http=:9000>8080/tcp admin=:9001>8081/tcp 8082=:9002>8082/tcp*",
			asked:   "job publish:*:9000/tcp job publish:*:9001/tcp job publish:*:9002/tcp"},
		"bridged": {network: "office", img: portImage(true, web),
			ports: map[string]client.PortBinding{"http": bound("http", 20001)},
			want:  "http=10.0.0.1:20001>8080/tcp", asked: "job port:20001/tcp image port:8080/tcp"},
		"none of its image's": {network: "lan", img: portImage(true, web, admin), noPorts: true},
		"none, and one that is published": {network: "lan", img: portImage(true, web), noPorts: true,
			publish: published("81:8080"), want: "8080=:81>8080/tcp*", asked: "job publish:*:81/tcp"},
		"bridged alone": {network: "office", img: portImage(true, web), want: "http=:0>8080/tcp", asked: "image port:8080/tcp"},
		"alias with to": {network: "wire", img: portImage(true, web),
			ports: map[string]client.PortBinding{"http": to(bound("http", 20001), 9090)},
			want:  "http=10.0.0.1:20001>9090/tcp", asked: "job port:20001/tcp job port:9090/tcp"},
		"none": {network: "none", img: portImage(true, web),
			ports: map[string]client.PortBinding{"http": bound("http", 20001)}, want: "http=:0>8080/tcp",
			noted: "port http: 20001 of the host does not lead to the task: the network none has loopback alone"},
		"host": {network: "host", img: portImage(true, web), publish: published("8080", "9000-9009"),
			want:  "http=:8080>8080/tcp 9000-9009=:9000>9000/tcp*x10",
			asked: "job port:8080/tcp job port:9000-9009/tcp"},
		"a range of the host's": {network: "host", img: portImage(true, web), publish: published("8079-8081"),
			want:  "http=:8080>8080/tcp 8079=:8079>8079/tcp* 8081=:8081>8081/tcp*",
			asked: "job port:8080/tcp job port:8079/tcp job port:8081/tcp"},
	} {
		p, err := onNetwork(c.network, c.img, client.TaskSpec{Owner: "nomad", Ports: c.ports, Publish: c.publish,
			NoPorts: c.noPorts})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got, asked []string
		for _, o := range p.ports {
			text := fmt.Sprintf("%s=%s:%d>%d/%s%s", o.Name, o.Address, o.Port, o.Inside(), o.Protocol,
				map[bool]string{o.Job: "*"}[true])
			if o.Count > 1 {
				text += fmt.Sprint("x", o.Count)
			}
			got = append(got, text)
		}
		for _, r := range p.requests {
			asked = append(asked, string(r.Source)+" "+r.Key())
		}
		for _, is := range [][3]string{{"is", strings.Join(got, " "), c.want}, {"asks for", strings.Join(asked, " "), c.asked},
			{"notes", strings.Join(p.notes, "; "), c.noted}} {
			if is[1] != is[2] {
				t.Errorf("%s: %s\n%q, want\n%q", name, is[0], is[1], is[2])
			}
		}
	}
}

func TestPortsThatNetworksRefuse(t *testing.T) {
	web := portImage(true, image.Port{Name: "http", Port: 8080})
	for name, c := range map[string]struct {
		network string
		publish []client.Publication
		want    string
	}{
		"bridged":          {"office", published("80:8080"), "no port of the host leads to tasks of the network office (bridged): its tasks are reached at addresses of their own; of this host's networks lan would (network = \"NAME\")"},
		"none":             {"none", published("80:8080"), "its tasks have loopback alone"},
		"one place of two": {"lan", published("80:8080", "80:81"), "ports: http and 80:81/tcp are both 80/tcp of the host"},
		"a place of two that are led to one": {"lan", published("80:8080", "127.0.0.1:80:8080"),
			"ports: http and 127.0.0.1:80:8080/tcp are both"},
		"a place in all":   {"lan", published("80:8080", "127.0.0.1:80:8080"), "of the host"},
		"ranges that meet": {"lan", published("80-90:80-90", "85:8080"), "of the host"},
		"a family":         {"lan", published("[2001:db8::1]:80:8080"), "2001:db8::1 is an address of IPv6, and the network lan has none of that"},
		"too many":         {"lan", published("1-2000:1-2000"), "a task can have 1024 ports of the host"},
		"beyond":           {"lan", []client.Publication{{Port: 65530, To: 80, Count: 10, Protocol: "tcp"}}, "65530-65539 is not a valid port"},
		"a gateway's":      {"lan", published("10.88.0.1:50-60:50-60/udp"), "port 10.88.0.1:53/udp is at the gateway of network lan"},
		"of many":          {"lan", published("224.0.0.1:80:80/udp"), "cannot be published at 224.0.0.1"},
		"mapped on host":   {"host", published("80:81"), "80 cannot be mapped to port 81"},
	} {
		p, err := onNetwork(c.network, web, client.TaskSpec{Publish: c.publish})
		if err == nil {
			err = p.check(100)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	_, err := onNetwork("none", web, client.TaskSpec{Owner: "cli", Publish: published("80:8080")})
	if err == nil || !strings.HasSuffix(err.Error(), "networks lan would (--network NAME)") {
		t.Errorf("a task of the command line: %v", err)
	}
}

// Loopback of the host is not the task's: the gateway answers for it in nat, and nobody elsewhere.
func TestResolverOfANetwork(t *testing.T) {
	const loopback, mixed = "nameserver 127.0.0.53\nsearch a.example\n", "nameserver ::1\nnameserver 192.0.2.1\n"
	for name, c := range map[string]struct {
		network, host string
		dns           client.DNS
		want          string
	}{
		"nat":            {network: "lan", host: loopback, want: "search a.example\nnameserver 10.88.0.1\n"},
		"nat, mixed":     {network: "lan", host: mixed, want: "nameserver 10.88.0.1\nnameserver 192.0.2.1\n"},
		"the job's":      {network: "office", host: loopback, dns: client.DNS{Servers: []string{"::2"}}, want: "search a.example\nnameserver ::2\n"},
		"bridged, mixed": {network: "office", host: mixed, want: "nameserver 192.0.2.1\n"},
		"bridged":        {network: "office", host: loopback, want: "127.0.0.53) are not reached from the network office"},
		"alias":          {network: "wire", host: loopback, want: "are not reached from the network wire"},
		"alias, fine":    {network: "wire", host: "nameserver 192.0.2.1\n", want: "nameserver 192.0.2.1\n"},
		"no servers":     {network: "office", host: "search a.example\n", want: "search a.example\n"},
		"none":           {network: "none", host: mixed, want: "# by freejail: the network none reaches no server\n"},
	} {
		p, err := onNetwork(c.network, portImage(true), client.TaskSpec{})
		if err != nil {
			t.Fatal(err)
		}
		text, err := p.ownResolver(c.dns, []byte(c.host))
		got := string(text)
		if _, rest, ours := strings.Cut(got, "says\n"); ours {
			got = rest
		}
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestEnvironmentInAStack(t *testing.T) {
	p, err := onNetwork("lan", portImage(true, image.Port{Name: "my-web", Port: 8080}),
		client.TaskSpec{Ports: map[string]client.PortBinding{"my-web": {Address: "192.0.2.7", Port: 80}}})
	if err != nil {
		t.Fatal(err)
	}
	p.endpoint = fakeEndpoint
	p.ports = append(p.ports, client.Port{Name: "90.2", Port: 90, To: 90})
	env := p.portVars()
	if got := env["FREEJAIL_ADDR_90.2"] + env["FREEJAIL_PORT_90_2"]; got != "" {
		t.Errorf("a second place has variables: %q", got)
	}
	for name, want := range map[string]string{"PORT_my_web": "8080", "ADDR_my_web": "10.88.0.2", "HOST_PORT_my_web": "80",
		"HOST_ADDR_my_web": "192.0.2.7", "PORT_my-web": "8080"} {
		if got := env["FREEJAIL_"+name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
