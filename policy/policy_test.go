package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/devfs"
)

const digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// devfsRules are compared as the daemon has the policy do it.
var devfsRules = DevicesBy(devfs.ParseRule, devfs.NewIndex)

func mustParse(t *testing.T, src string) *Policy {
	t.Helper()
	p, err := Parse("host.hcl", []byte(src), devfsRules)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDecide(t *testing.T) {
	p := mustParse(t, `
state_dir = "/somewhere"
permit {
  ports  = ["1024-65535/tcp", "53"]
  mounts = ["tmpfs:/tmp", "nullfs:/srv/data:ro", "procfs"]
}
permit {
  images  = ["db*"]
  allow   = ["raw_sockets", "mount.*"]
  sysvipc = ["shm=new", "sem"]
  jail    = { securelevel = "*" }
  sysctl  = { "net.inet.tcp.*" = "1" }
  devfs   = ["path mem unhide"]
}
deny {
  ports = ["2049"]
  devfs = ["path kmem unhide"]
}
deny {
  images = ["db-evil"]
  allow  = ["raw_sockets"]
}
`)
	for _, c := range []struct {
		image string
		req   Request
		want  bool
	}{
		{"web", req("port", "http", "8080/tcp"), true},
		{"web", req("port", "http", "80/tcp"), false},
		{"web", req("port", "http", "8080/udp"), false},
		{"web", req("port", "dns", "53/udp"), true},
		{"web", req("port", "nfs", "2049/tcp"), false},
		{"web", req("mount", "/tmp/x", "tmpfs"), true},
		{"web", req("mount", "/tmpx", "tmpfs"), false},
		{"web", req("mount", "/tmp/../etc", "tmpfs"), false},
		{"web", req("mount", "/d", "nullfs:/srv/data/a:ro"), true},
		{"web", req("mount", "/d", "nullfs:/srv/data/a:rw"), false},
		{"web", req("mount", "/d", "nullfs:/srv/database:ro"), false},
		{"web", req("mount", "/d", "nullfs:/srv/data/../../etc:ro"), false},
		{"web", req("mount", "/d", "nullfs:/srv/data:x:ro"), false},
		{"web", req("mount", "/proc", "procfs"), true},
		{"web", req("allow", "allow.raw_sockets", "true"), false},
		{"db:1", req("allow", "allow.raw_sockets", "true"), true},
		{"db-evil", req("allow", "allow.raw_sockets", "true"), false},
		{"db", req("allow", "allow.mount.zfs", "true"), true},
		{"db", req("allow", "allow.chflags", "true"), false},
		{"db", req("sysvipc", "shm", "new"), true},
		{"db", req("sysvipc", "shm", "inherit"), false},
		{"db", req("sysvipc", "sem", "inherit"), true},
		{"db", req("jail", "securelevel", "3"), true},
		{"db", req("jail", "enforce_statfs", "0"), false},
		{"db", req("sysctl", "net.inet.tcp.x", "1"), true},
		{"db", req("sysctl", "net.inet.tcp.x", "2"), false},
		{"db", req("devfs", "path mem unhide", "path mem unhide"), true},
		{"db", req("devfs", "path kmem unhide", "path kmem unhide"), false},
		{"db", req("vnet", "", "true"), false},
		{"db", req("new kind", "", ""), false},
	} {
		d := p.Decide(Subject{Image: c.image, Repository: strings.Split(c.image, ":")[0]}, []Request{c.req}, nil)
		if d.Allowed != c.want {
			t.Errorf("%s asks for %s: got %v (%s)", c.image, c.req, d.Allowed, d.Results[0].Reason)
		}
	}
}

func TestDefaultDeny(t *testing.T) {
	p := mustParse(t, "")
	d := p.Decide(Subject{}, []Request{req("port", "", "80/tcp")}, nil)
	if d.Allowed {
		t.Error("an empty policy permits a port")
	}
	if d := p.Decide(Subject{}, nil, nil); !d.Allowed {
		t.Error("an image that asks for nothing is refused")
	}
}

func TestApproval(t *testing.T) {
	p := mustParse(t, `deny { allow = ["mount"] }`)
	raw := req("allow", "allow.raw_sockets", "true", FromImage)
	mnt := req("allow", "allow.mount", "true", FromImage)
	ok := []Approval{{Digest: digestA, Requests: []Request{raw, mnt}, By: "ann", Why: "ping", At: time.Now()}}
	s := Subject{Image: "tool:1", Repository: "tool", Digest: digestA}
	if d := p.Decide(s, []Request{raw}, ok); !d.Allowed || !strings.Contains(d.Results[0].Reason, "ann") {
		t.Errorf("approved, but: %+v", d)
	}
	if d := p.Decide(s, []Request{mnt}, ok); d.Allowed {
		t.Error("an approval goes over a deny")
	}
	s.Digest = digestB
	d := p.Decide(s, []Request{raw}, ok)
	if d.Allowed {
		t.Error("an approval holds for another digest")
	}
	err := d.Err(s)
	for _, want := range []string{"allow.raw_sockets", "no permit", "freejail policy approve tool@" + s.Digest,
		"--request allow:raw_sockets"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the refusal lacks %q: %v", want, err)
		}
	}
}

func TestMistakes(t *testing.T) {
	for src, want := range map[string]string{
		`permit { port = ["80"] }`:              "host.hcl:1",
		`permit { ports = ["0"] }`:              "1 to 65535",
		`permit { ports = ["90-80"] }`:          "1 to 65535",
		`permit { ports = ["80/sctp"] }`:        "must be tcp or udp",
		`permit { mounts = ["nullfs"] }`:        "source",
		`permit { mounts = ["tmpfs:/a/../b"] }`: "clean",
		`permit { sysvipc = ["shm=all"] }`:      "sysvipc",
		`permit { digests = ["sha256:12"] }`:    "64",
		`permit { images = ["["] }`:             "images",
		`permit {`:                              "host.hcl:1",
	} {
		if _, err := Parse("/etc/host.hcl", []byte(src), devfsRules); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", src, err, want)
		}
	}
}

// req is a request as an approval keeps it.
func req(kind Kind, name, value string, from ...Source) Request {
	return Request{fromForm(kind, name, value), append(from, "")[0]}
}

func service(name string, tags []string, from Source) Request {
	return Request{NewService(name, tags), from}
}

func nameOf(r Request) string {
	name, _ := r.form()
	return name
}

func valueOf(r Request) string {
	_, value := r.form()
	return value
}
