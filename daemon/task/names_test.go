package task

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

func TestResolver(t *testing.T) {
	host := "# the host's\nnameserver 127.0.0.53\nnameserver 2001:db8::1\nsearch old.example\ndomain a.example\n" +
		"search b.example c.example\noptions edns0 trust-ad\n;x\nnameserver"
	for _, c := range []struct {
		dns  client.DNS
		want string
	}{
		{client.DNS{}, host},
		{client.DNS{Servers: []string{"192.0.2.53"}},
			"search b.example c.example\nnameserver 192.0.2.53\noptions edns0 trust-ad\n"},
		{client.DNS{Searches: []string{"x.example"}, Options: []string{"ndots:2"}},
			"search x.example\nnameserver 127.0.0.53\nnameserver 2001:db8::1\noptions ndots:2\n"},
		{client.DNS{Servers: []string{"::1"}, Searches: []string{"."}}, "nameserver ::1\noptions edns0 trust-ad\n"},
	} {
		got := string(resolver(c.dns, []byte(host)))
		if _, got, _ = strings.Cut(got, "says\n"); got != c.want && !c.dns.IsEmpty() {
			t.Errorf("%+v: %q, want %q", c.dns, got, c.want)
		}
	}
	if got := string(resolver(client.DNS{}, []byte(host))); got != host {
		t.Errorf("%q", got)
	}
}

// The host's file may be a link; none is an empty one, and what is no file is told.
func TestHostResolver(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{"file": "nameserver 192.0.2.1\n", "large": strings.Repeat("#\n", maxResolver)} {
		if err := os.WriteFile(at(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"link": "file", "dangling": "none"} {
		if err := os.Symlink(to, at(link)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"file": "nameserver 192.0.2.1\n", "link": "nameserver 192.0.2.1\n",
		"dangling": "", "none": ""} {
		if b, err := hostResolver(at(name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	for _, name := range []string{"large", "."} {
		if _, err := hostResolver(at(name)); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestHosts(t *testing.T) {
	extra := []client.HostEntry{{Name: "db", Address: "192.0.2.7"}}
	if got := string(hosts("freebsd", "web.example.com", []string{"192.0.2.1"}, extra)); got !=
		"::1\t\t\tlocalhost\n127.0.0.1\t\tlocalhost\n192.0.2.7\tdb\n192.0.2.1\tweb.example.com web\n" {
		t.Errorf("%q", got)
	}
	got := string(hosts("linux", "web", []string{"127.0.0.1"}, nil))
	if !strings.HasPrefix(got, "127.0.0.1\tlocalhost\n::1\tlocalhost ") || !strings.HasSuffix(got, "\n127.0.0.1\tweb\n") {
		t.Errorf("%q", got)
	}
	for _, name := range []string{"localhost", "ends-with-", ""} {
		if got := string(hosts("freebsd", name, []string{"127.0.0.1"}, nil)); strings.Count(got, "\n") != 2 {
			t.Errorf("%q: %q", name, got)
		}
	}
}

// The host is at another place for a task in a stack of its own.
func TestHostGateway(t *testing.T) {
	for name, want := range map[string]string{"host": "127.0.0.1", "lan": "10.88.0.1", "office": "name one of the host's",
		"wire": "name one of the host's", "none": "name one of the host's"} {
		p, err := onNetwork(name, portImage(true), client.TaskSpec{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.extraHosts([]string{"db:192.0.2.7", "host.docker.internal:host-gateway"})
		switch {
		case err != nil && strings.Contains(err.Error(), want):
		case err != nil || len(got) != 2 || got[1].Address != want:
			t.Errorf("%s: %+v %v, want %s", name, got, err, want)
		}
	}
}

func TestAddress(t *testing.T) {
	for want, ports := range map[string][]client.Port{"127.0.0.1": {{}, {Address: "0.0.0.0"}, {Address: "::"}},
		"192.0.2.9": {{}, {Address: "192.0.2.9"}, {Address: "192.0.2.10"}}, "fe80::1": {{Address: "fe80::1%em0"}}} {
		if got := (&plan{ports: ports}).foundAt(); len(got) != 1 || got[0] != want {
			t.Errorf("%v: %s", ports, got)
		}
	}
}
