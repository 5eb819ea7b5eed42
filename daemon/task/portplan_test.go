package task

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
)

// portImage is an image with a manifest that declares ports, or without one that exposes them.
func portImage(manifest bool, ports ...image.Port) *image.Image {
	img := &image.Image{Name: "img", Manifest: &image.Manifest{SchemaVersion: 1, Ports: ports}}
	if manifest {
		img.Config.Config = ocispec.ImageConfig{Labels: map[string]string{image.ManifestLabel: "{}"}}
	}
	return img
}

// bound is a port of a group.
func bound(label string, port int) client.PortBinding {
	return client.PortBinding{Address: "10.0.0.1", Port: port, Label: label}
}

func TestPortsOfATask(t *testing.T) {
	web, admin := image.Port{Name: "http", Port: 8080}, image.Port{Name: "admin", Port: 8081}
	to := func(b client.PortBinding, n int) client.PortBinding { b.To = n; return b }
	udp := func(b client.PortBinding) client.PortBinding { b.Protocol = "udp"; return b }
	for name, c := range map[string]struct {
		img                *image.Image
		ports              map[string]client.PortBinding
		want, asked, noted string
	}{
		"no ports at all": {img: portImage(false)},
		"an image without a manifest": {img: portImage(false),
			ports: map[string]client.PortBinding{"http": bound("http", 20001), "admin": bound("admin", 20002)},
			want:  "admin=10.0.0.1:20002/tcp* http=10.0.0.1:20001/tcp*", asked: "job:20002/tcp job:20001/tcp"},
		"a second label": {img: portImage(true, web),
			ports: map[string]client.PortBinding{"http": bound("http", 20001), "admin": bound("admin", 20002)},
			want:  "http=10.0.0.1:20001/tcp admin=10.0.0.1:20002/tcp*", asked: "job:20001/tcp job:20002/tcp"},
		"another name that is the label's": {img: portImage(true, web),
			ports: map[string]client.PortBinding{"http": bound("web", 20001)},
			want:  "http=10.0.0.1:20001/tcp", asked: "job:20001/tcp"},
		"two ports of the image, one of them bound": {img: portImage(true, web, admin),
			ports: map[string]client.PortBinding{"http": bound("http", 20001)},
			want:  "http=10.0.0.1:20001/tcp admin=:8081/tcp", asked: "job:20001/tcp image:8081/tcp"},
		"a misspelt name": {img: portImage(true, web), ports: map[string]client.PortBinding{"htp": bound("http", 20001)},
			want: "http=:8080/tcp htp=10.0.0.1:20001/tcp*", asked: "image:8080/tcp job:20001/tcp",
			noted: "port htp is the job's own: image img declares no port of this name; it declares: http"},
		"udp": {img: portImage(false), ports: map[string]client.PortBinding{"dns": udp(bound("dns", 53))},
			want: "dns=10.0.0.1:53/udp*", asked: "job:53/udp"},
		"the number of an image's port": {img: portImage(true, web),
			ports: map[string]client.PortBinding{"web": bound("web", 8080)},
			want:  "http=10.0.0.1:8080/tcp web=10.0.0.1:8080/tcp*", asked: "job:8080/tcp"},
		"for an image's port": {img: portImage(true, web),
			ports: map[string]client.PortBinding{"web": to(bound("web", 20001), 8080)},
			want:  "http=10.0.0.1:20001/tcp web=10.0.0.1:20001/tcp*", asked: "job:20001/tcp"},
		"for a port that is only exposed": {img: portImage(false, image.Port{Name: "80", Port: 80}),
			ports: map[string]client.PortBinding{"http": to(bound("http", 20001), 80)},
			want:  "80=:80/tcp? http=10.0.0.1:20001/tcp*", asked: "host:80/tcp job:20001/tcp",
			noted: "port http: 20001 is not mapped to 80, as tasks use the host's network: the program has to listen on 20001 " +
				"(FREEJAIL_PORT_http), or the job to say static = 80"},
		"an exposed port by its name": {img: portImage(false, image.Port{Name: "80", Port: 80}),
			ports: map[string]client.PortBinding{"80": bound("http", 20001)},
			want:  "80=10.0.0.1:20001/tcp", asked: "job:20001/tcp",
			noted: "port http: 20001 is not mapped to 80, as tasks use the host's network: the program has to listen on 20001 " +
				"(FREEJAIL_PORT_80), or the job to say static = 80"},
		"an exposed port that is bound": {img: portImage(false, image.Port{Name: "80", Port: 80}),
			ports: map[string]client.PortBinding{"http": bound("http", 80)},
			want:  "80=10.0.0.1:80/tcp http=10.0.0.1:80/tcp*", asked: "job:80/tcp"},
		"one exposed port and one label": {img: portImage(false, image.Port{Name: "80", Port: 80}),
			ports: map[string]client.PortBinding{"http": bound("http", 20001)},
			want:  "80=:80/tcp? http=10.0.0.1:20001/tcp*", asked: "host:80/tcp job:20001/tcp"},
		"an address each": {img: portImage(true, web), ports: map[string]client.PortBinding{
			"a": {Address: "10.0.0.1", Port: 8080, Label: "a"}, "b": {Address: "10.0.0.2", Port: 8080, Label: "b"}},
			want: "http=:8080/tcp a=10.0.0.1:8080/tcp* b=10.0.0.2:8080/tcp*", asked: "image:8080/tcp job:8080/tcp"},
		"docker's way": {img: portImage(true, web), ports: map[string]client.PortBinding{"8080": {Port: 80, To: 8080}},
			want: "http=:80/tcp 8080=:80/tcp*", asked: "job:80/tcp",
			noted: "port 8080 is the job's own: image img declares no port of this name; it declares: http"},
	} {
		p := &plan{image: c.img}
		if err := p.addPorts(client.TaskSpec{Ports: c.ports}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got, asked []string
		for _, o := range p.ports {
			mark := map[bool]string{o.Job: "*", o.Exposed: "?"}[true]
			got = append(got, fmt.Sprintf("%s=%s:%d/%s%s", o.Name, o.Address, o.Port, o.Protocol, mark))
		}
		for _, r := range p.requests {
			asked = append(asked, string(r.Source)+strings.TrimPrefix(r.Key(), "port"))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %s, want %s", name, s, c.want)
		}
		if s := strings.Join(asked, " "); s != c.asked {
			t.Errorf("%s: asked for %s, want %s", name, s, c.asked)
		}
		if s := strings.Join(p.notes, "; "); s != c.noted {
			t.Errorf("%s: noted %q, want %q", name, s, c.noted)
		}
	}
}

// A job that changes a service which is not there is told.
func TestServicesOfNoPort(t *testing.T) {
	p := &plan{image: portImage(true, image.Port{Name: "http", Port: 1}, image.Port{Name: "dns", Port: 2})}
	spec := client.TaskSpec{Service: client.Overrides{Ports: map[string]client.PortOverride{"http": {Name: "web"},
		"dns": {Disabled: true}}}}
	if err := errors.Join(p.addPorts(spec), p.addServices(spec)); err != nil {
		t.Fatal(err)
	}
	want := "services: port http of image img has no service to change: a service block of the job can register it"
	if s := strings.Join(p.notes, "; "); s != want {
		t.Errorf("noted %q, want %q", s, want)
	}
	spec.Ports = map[string]client.PortBinding{"own": bound("own", 3)}
	spec.Service.Ports = map[string]client.PortOverride{"own": {Name: "web"}}
	p = &plan{image: portImage(true)}
	if err := errors.Join(p.addPorts(spec), p.addServices(spec)); err == nil || !strings.Contains(err.Error(),
		`declares no port "own"`) {
		t.Errorf("a service of a port of the job's own: %v", err)
	}
}

func TestPortsThatCannotBe(t *testing.T) {
	web, admin := image.Port{Name: "http", Port: 8080}, image.Port{Name: "admin", Port: 8081}
	for name, c := range map[string]struct {
		img   *image.Image
		ports map[string]client.PortBinding
		want  string
	}{
		"two of the image in one place": {portImage(true, web, admin),
			map[string]client.PortBinding{"http": bound("x", 20001), "admin": bound("x", 20001)},
			"http and admin of image img are both 10.0.0.1:20001/tcp"},
		"no number":          {portImage(false), map[string]client.PortBinding{"x": {}}, "x = 0 is not a valid port (1 to 65535)"},
		"a large number":     {portImage(false), map[string]client.PortBinding{"x": {Port: 65536}}, "x = 65536 is not a valid port"},
		"a protocol":         {portImage(false), map[string]client.PortBinding{"x": {Port: 1, Protocol: "sctp"}}, `"sctp" is neither tcp nor udp`},
		"another protocol":   {portImage(true, web), map[string]client.PortBinding{"http": {Port: 1, Protocol: "udp"}}, "is a tcp port, not udp"},
		"a misspelt name":    {portImage(true, web, admin), map[string]client.PortBinding{"htpp": {Port: 8083}}, `declares no port "htpp"; it declares: http, admin`},
		"by a name":          {portImage(false, image.Port{Name: "80", Port: 80}), map[string]client.PortBinding{"80": {Port: 8080}}, "8080 cannot be mapped to port 80"},
		"mapped by nobody":   {portImage(false), map[string]client.PortBinding{"80": {Port: 8080, To: 80}}, "8080 cannot be mapped to port 80"},
		"mapped and exposed": {portImage(false, image.Port{Name: "80", Port: 80}), map[string]client.PortBinding{"80": {Port: 8080, To: 80}}, "8080 cannot be mapped to port 80"},
	} {
		err := (&plan{image: c.img}).addPorts(client.TaskSpec{Ports: c.ports})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// A shell reads no variable with a dash.
func TestPortsInTheEnvironment(t *testing.T) {
	p := &plan{ports: []client.Port{{Name: "my-port", Address: "::1", Port: 1}, {Name: "a-b", Port: 2},
		{Name: "a_b", Port: 3}, {Name: "x=y\x00", Port: 4}}}
	env := p.portVars()
	for name, want := range map[string]string{"PORT_my-port": "1", "ADDR_my-port": "::1", "PORT_my_port": "1",
		"PORT_a-b": "2", "PORT_a_b": "3", "PORT_x_y_": "4"} {
		if got := env["FREEJAIL_"+name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, name := range slices.Collect(maps.Keys(env)) {
		if strings.ContainsAny(name, "=\x00") {
			t.Errorf("%q is no variable", name)
		}
	}
}

// What an image only exposes is nobody's, and tasks of one allocation share what is theirs.
func TestSharedPorts(t *testing.T) {
	m := &Manager{}
	of := func(key, alloc string, p client.Port) *task {
		spec := client.TaskSpec{ID: key, Owner: "nomad", Labels: map[string]string{"alloc_id": alloc}}
		return &task{info: client.Task{Key: key, Spec: spec, Ports: []client.Port{p}}}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := client.Port{Name: "http", Protocol: "tcp", Address: "127.0.0.1", Port: free.Addr().(*net.TCPAddr).Port}
	free.Close()
	own := web
	own.Job = true
	for _, tk := range []*task{of("web", "a", web), of("sidecar", "a", own), of("same image", "a", web)} {
		if err := m.claimPorts(tk); err != nil {
			t.Errorf("%s: %v", tk.key(), err)
		}
	}
	forged := of("forged", "a", web)
	forged.info.Spec.Owner = "cli"
	for _, tk := range []*task{of("other", "b", own), of("cli", "", web), forged} {
		if err := m.claimPorts(tk); err == nil || !strings.Contains(err.Error(), "is taken on this host by task") {
			t.Errorf("%s: %v", tk.key(), err)
		}
	}
	exposed := web
	exposed.Exposed = true
	if err := m.claimPorts(of("image", "", exposed)); err != nil {
		t.Errorf("a port that is only exposed: %v", err)
	}
	second := of("second", "a", client.Port{Name: "http", Protocol: "tcp", To: 8080})
	first := of("first", "a", second.info.Ports[0])
	first.info.Spec.Share, second.info.Spec.Share = "group", "group"
	if err := m.claimPorts(first); err != nil {
		t.Error(err)
	}
	if err := m.claimPorts(second); err == nil || !strings.Contains(err.Error(), "say ports = []") {
		t.Errorf("two programs at one port of a stack: %v", err)
	}
	m.releasePorts(first)
	for _, key := range []string{"web", "sidecar"} {
		m.releasePorts(of(key, "a", web))
	}
	if err := m.claimPorts(of("cli", "", web)); err == nil {
		t.Error("the claim of a task that runs on went with that of another")
	}
	if m.releasePorts(of("same image", "a", web)); len(m.ports) != 0 {
		t.Errorf("claims of nobody: %+v", m.ports)
	}
}

// A name is whoever's it is when it is looked up.
func TestPortsAreAtAddresses(t *testing.T) {
	for address, good := range map[string]bool{"": true, "192.0.2.7": true, "::1": true, "fe80::1%lo0": true,
		"localhost": false, "db.example.com": false, "127.1": false} {
		err := new(plan).addPort(client.Port{Name: "web", Port: 8080, Protocol: "tcp", Address: address}, asked{})
		if (err == nil) != good {
			t.Errorf("%q: %v", address, err)
		}
	}
}

// A service is registered where it is reached.
func TestServicesOfNetworks(t *testing.T) {
	web := image.Port{Name: "http", Port: 8080, Service: &image.Service{Name: "web"}}
	hostAddress := client.Overrides{Ports: map[string]client.PortOverride{"http": {Address: "127.0.0.1"}}}
	for name, c := range map[string]struct {
		network int // of fakeConfig
		ports   map[string]client.PortBinding
		over    client.Overrides
		want    string // in a note or the error
	}{
		"a port of the host":       {network: 0, ports: map[string]client.PortBinding{"http": bound("http", 20001)}},
		"none":                     {network: 0, want: "which this host alone reaches"},
		"its own address":          {network: 1},
		"an address of the host's": {network: 1, over: hostAddress, want: "reached at addresses of their own"},
		"the same with alias":      {network: 2, over: hostAddress, want: "reached at addresses of their own"},
		"the host's, which leads there": {network: 0, over: hostAddress,
			ports: map[string]client.PortBinding{"http": bound("http", 20001)}},
	} {
		p := &plan{image: portImage(true, web)}
		p.network = fakeConfig[c.network]
		spec := client.TaskSpec{Ports: c.ports, Service: c.over}
		err := errors.Join(p.addPorts(spec), p.addServices(spec))
		said := strings.Join(append(p.notes, fmt.Sprint(err)), "; ")
		if !strings.Contains(said, c.want) || c.want == "" && said != "<nil>" {
			t.Errorf("%s: %s, want %q", name, said, c.want)
		}
	}
}
