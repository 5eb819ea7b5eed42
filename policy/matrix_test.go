package policy

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/internal/printable"
)

// cases has for each kind a request, a permit of it, a permit that is almost
// one, and a deny.
var cases = map[Kind]rulings{}

type rulings struct {
	request      Request
	permit, near string
	deny         string
}

func init() { // when the kinds are there
	maps.Copy(cases, map[Kind]rulings{
		"devfs": {req("devfs", "path 'bpf[0-3]' unhide mode 600", "path 'bpf[0-3]' unhide mode 600"),
			`devfs = ["path 'bpf*' unhide mode 660"]`, `devfs = ["path 'bpf[0-2]' unhide mode 660"]`,
			`devfs = ["path bpf3 unhide"]`},
		"allow": {req("allow", "allow.raw_sockets", "true"), `allow = ["raw_sockets"]`, `allow = ["raw_socket?x"]`,
			`allow = ["raw_*"]`},
		"jail": {req("jail", "children.max", "3"), `jail = { "children.max" = "<=5" }`,
			`jail = { "children.max" = "<=2" }`, `jail = { "children.*" = "1..9" }`},
		"sysvipc": {req("sysvipc", "shm", "new"), `sysvipc = ["shm=new"]`, `sysvipc = ["shm=inherit", "sem"]`,
			`sysvipc = ["shm"]`},
		"sysctl": {req("sysctl", "kern.ipc.somaxconn", "1024"), `sysctl = { "kern.ipc.*" = ">=128" }`,
			`sysctl = { "kern.ipc" = "*" }`, `sysctl = { "*" = "1024" }`},
		"mount": {req("mount", "/data", "nullfs:/srv/data/a:rw"), `mounts = ["nullfs:/srv/data:rw"]`,
			`mounts = ["nullfs:/srv/data:ro"]`, `mounts = ["nullfs:/srv/data/a/secret"]`},
		"port": {req("port", "http", "80/tcp"), `ports = ["80-90/tcp"]`, `ports = ["80-90/udp", "81"]`,
			`ports = ["1-1023"]`},
		"service": {service("web", []string{"v1", "a,b*"}, ""), `services = ["W*:v?,a\\,b*"]`,
			`services = ["web:v1", "web", "*:a*", "we:*"]`, `services = ["Web"]`},
		"module": {req("module", "", "linprocfs"), `modules = ["lin*"]`, `modules = ["linux"]`, `modules = ["*"]`},
		"nfs":    {req("nfs", "", "root"), `nfs = true`, `nfs = false`, `nfs = true`},
		"vnet":   {req("vnet", "", "true"), `vnet = true`, `vnet = false`, `vnet = true`},
		"linux":  {req("linux", "", "true"), `linux = true`, `linux = false`, `linux = true`},
		"network": {req("network", "", "back-end"), `networks = ["back-*"]`, `networks = ["back", "none"]`,
			`networks = ["*-end"]`},
		"address": {req("address", "", "192.0.2.7"), `addresses = ["192.0.2.0/28"]`,
			`addresses = ["192.0.2.8/29", "192.0.2.1-192.0.2.6", "::/0"]`, `addresses = ["192.0.2.7-192.0.2.9"]`},
		"trace": {req("trace", "", "ann"), `traces = ["an*"]`, `traces = ["an", "1001"]`, `traces = ["*nn"]`},
		"publish": {req("publish", "", "192.0.2.7:8080/tcp"), `publish = ["192.0.2.7:8000-9000/tcp"]`,
			`publish = ["192.0.2.6:8080", "192.0.2.7:8080/udp", "[::]:8080"]`, `publish = ["*:8080"]`},
	})
}

// TestMatrix tries every kind of request under every ruling, asked for by the
// image and by the job.
func TestMatrix(t *testing.T) {
	for _, kind := range Kinds() {
		c, ok := cases[kind]
		// every user is permitted unless denied; no permit is about signatures
		if !ok && kind != "user" && kind != "signature" {
			t.Errorf("there is no case for %s", kind)
		}
		for _, from := range []Source{FromImage, FromJob} {
			if ok {
				t.Run(fmt.Sprintf("%s of the %s", kind, from), func(t *testing.T) {
					r := c.request
					r.Source = from
					row(t, r, c.permit, c.near, c.deny)
				})
			}
		}
	}
}

const digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

func row(t *testing.T, r Request, permit, near, deny string) {
	mine := Subject{Image: "acme/web:1", Repository: "acme/web", Digest: digestA, Signers: []string{"release"},
		Namespace: "prod", Job: "shop"}
	approval := []Approval{{Digest: digestA, Requests: []Request{r}, By: "ann", Why: "because", At: time.Now()}}
	approval[0].Requests[0].Source = ""
	other := []Approval{{Digest: digestB, Requests: []Request{r}}}
	expired := []Approval{{Digest: digestA, Requests: []Request{r}, Expires: time.Now().Add(-time.Second)}}
	for _, c := range []struct {
		name, policy string
		approvals    []Approval
		want         bool
	}{
		{"nothing is said", "", nil, false},
		{"permitted", "permit {\n %s\n}", nil, true},
		{"almost permitted", "permit {\n %n\n}", nil, false},
		{"denied", "permit {\n %s\n}\ndeny {\n %d\n}", nil, false},
		{"denied and approved", "deny {\n %d\n}", approval, false},
		{"approved", "", approval, true},
		{"approved for another digest", "", other, false},
		{"an approval that has expired", "", expired, false},
		{"for this image", "permit {\n images = [\"acme/*\"]\n %s\n}", nil, true},
		{"for all below", "permit {\n images = [\"acme/**\"]\n %s\n}", nil, true},
		{"for another image", "permit {\n images = [\"web\", \"acme\", \"acme/web/*\", \"*/*/web\"]\n %s\n}", nil,
			false},
		{"denied to another image", "permit {\n %s\n}\ndeny {\n images = [\"other\"]\n %d\n}", nil, true},
		{"for this digest", "permit {\n digests = [\"" + digestA + "\"]\n %s\n}", nil, true},
		{"for another digest", "permit {\n digests = [\"" + digestB + "\"]\n %s\n}", nil, false},
		{"for its signer", "permit {\n signer = [\"rel*\"]\n %s\n}", nil, true},
		{"for another signer", "permit {\n signer = [\"relea\", \"ops\"]\n %s\n}", nil, false},
		{"in its namespace", "permit {\n namespaces = [\"prod\"]\n %s\n}", nil, true},
		{"in another namespace", "permit {\n namespaces = [\"test\"]\n %s\n}", nil, false},
		{"for its job", "permit {\n jobs = [\"shop\"]\n %s\n}", nil, true},
		{"for another job", "permit {\n jobs = [\"shop-*\"]\n %s\n}", nil, false},
		{"for this image in another namespace", "permit {\n images = [\"acme/*\"]\n namespaces = [\"test\"]\n %s\n}",
			nil, false},
		{"for images alone", "permit {\n from = [\"image\"]\n %s\n}", nil, r.Source == FromImage},
		{"for jobs alone", "permit {\n from = [\"job\"]\n %s\n}", nil, r.Source == FromJob},
		{"by a set", "set \"mine\" {\n %s\n}\npermit {\n sets = [\"mine\"]\n}", nil, true},
		{"by a set for another image", "set \"mine\" {\n %s\n}\npermit {\n images = [\"x\"]\n sets = [\"mine\"]\n}",
			nil, false},
	} {
		p := mustParse(t, strings.NewReplacer("%s", permit, "%n", near, "%d", deny).Replace(c.policy))
		res := p.Decide(mine, []Request{r}, c.approvals).Results[0]
		if res.Allowed != c.want {
			t.Errorf("%s: allowed is %v, want %v: %s", c.name, res.Allowed, c.want, res.Reason)
		}
		if res.Reason == "" || res.Allowed && res.Permit != "" || !res.Allowed && !res.Denied && res.Permit == "" {
			t.Errorf("%s: the answer does not explain itself: %+v", c.name, res)
		}
		if res.Permit != "" { // what it says would permit it does
			if again := mustParse(t, res.Permit).Decide(mine, []Request{r}, nil).Results[0]; !again.Allowed {
				t.Errorf("%s: the permit that was proposed does not permit it:\n%s\n%s", c.name, res.Permit,
					again.Reason)
			}
		}
	}
	key, err := ParseKey(r.Key())
	if err != nil || (Request{key, ""}).identity() != r.identity() {
		t.Errorf("the key %q is read as %+v: %v", r.Key(), key, err)
	}
}

func TestUsers(t *testing.T) {
	root := req("user", "", "root", FromImage)
	www := req("user", "", "www", FromJob)
	if d := mustParse(t, "").Decide(Subject{}, []Request{root, www}, nil); !d.Allowed {
		t.Errorf("users are refused unasked: %+v", d)
	}
	d := mustParse(t, `deny { users = ["root"] }`).Decide(Subject{Digest: digestA}, []Request{root, www},
		[]Approval{{Digest: digestA, Requests: []Request{root}}})
	if d.Results[0].Allowed || !d.Results[0].Denied || !d.Results[1].Allowed {
		t.Errorf("root is denied, others not: %+v", d)
	}
}

// What is hidden is no privilege; what two permits open together is permitted.
func TestDevfsTogether(t *testing.T) {
	p := mustParse(t, "permit {\n devfs = [\n \"path 'bpf[0-4]' unhide\",\n \"path 'bpf[5-9]' unhide\"]\n}\n")
	rule := func(s string) Request { return req("devfs", s, s) }
	d := p.Decide(Subject{}, []Request{rule("path 'bpf[0-9]' unhide"), rule("path mem hide"),
		rule("path 'bpf*' unhide"), rule("path x")}, nil)
	for i, want := range []bool{true, true, false, false} {
		if d.Results[i].Allowed != want {
			t.Errorf("%s: %+v", d.Results[i].Request, d.Results[i])
		}
	}
	if r := d.Results[0].Reason; r != "permitted at host.hcl:3 and host.hcl:4" {
		t.Errorf("the reason is %q", r)
	}
}

func TestMountFlags(t *testing.T) {
	p := mustParse(t, `
permit { mounts = ["tmpfs:/tmp:size<=64MiB", "nullfs:/opt:ro,suid", "nullfs:/srv/a"] }
deny { mounts = ["nullfs:/srv/a/rw:rw"] }`)
	for value, want := range map[string]bool{
		"tmpfs,size=1048576": true, "tmpfs": false, "tmpfs,size=99999999": false, "tmpfs,size=-1": false,
		"tmpfs,size=0x10": false, "tmpfs,size=1048576,suid": false,
		"tmpfs,mode=777": false, "nullfs:/opt/x:ro": true, "nullfs:/opt/x:ro,suid": true,
		"nullfs:/opt/x:rw,suid": false, "nullfs:/srv/a:ro,suid": false,
		"nullfs:/srv/a/b:rw": true, "nullfs:/srv/a/rw/x:rw": false, "nullfs:/srv/a/rw/x:ro": false,
		"nullfs:/srv/a:rw": false, "nullfs:/srv/a:ro": false,
		"nullfs:/srv/a,b:rw": false, "nullfs:/srv/a/../../etc:ro": false, "nullfs:srv/a:ro": false,
		"nullfs:/:ro": false, "tmpfs:/srv/a:ro": false, "": false,
	} {
		d := p.Decide(Subject{}, []Request{req("mount", "/tmp/x", value)}, nil)
		if d.Allowed != want {
			t.Errorf("%q: allowed is %v: %s", value, d.Allowed, d.Results[0].Reason)
		}
	}
}

// Ways of writing a number that one reader takes for another than the next.
func TestNumericTricks(t *testing.T) {
	p := mustParse(t, `permit {
 jail  = { "children.max" = "<=5", securelevel = "1..3" }
 ports = ["1024-65535"]
}`)
	for _, v := range []string{"0x5", "+5", "05", " 5", "5 ", "5_0", "5e0", "5.0", "--5", "99999999999999999999",
		"-9223372036854775809", "٥", "", "6"} {
		if d := p.Decide(Subject{}, []Request{req("jail", "children.max", v)}, nil); d.Allowed {
			t.Errorf("children.max=%q is permitted: %s", v, d.Results[0].Reason)
		}
	}
	for _, v := range []string{"08080/tcp", "8080", "8080/TCP", "+8080/tcp", "0/tcp", "-1/tcp", "65536/tcp",
		"8080-80/tcp", "1-8080/tcp", "8080/sctp", "8080/tcp ", "0x1f90/tcp"} {
		if d := p.Decide(Subject{}, []Request{req("port", "", v)}, nil); d.Allowed {
			t.Errorf("port %q is permitted: %s", v, d.Results[0].Reason)
		}
	}
	deny := mustParse(t, `deny { ports = ["22"] }`)
	for _, odd := range []Port{{First: 8080, Last: 8080}, {First: 9000, Last: 8000, Protocol: "tcp"},
		{First: 1024, Last: 65536, Protocol: "tcp"}} {
		if d := p.Decide(Subject{}, []Request{{odd, FromImage}}, nil); d.Allowed {
			t.Errorf("%+v is permitted: %s", odd, d.Results[0].Reason)
		}
		if d := deny.Decide(Subject{}, []Request{{odd, FromImage}}, nil); !d.Results[0].Denied {
			t.Errorf("%+v is not denied: %s", odd, d.Results[0].Reason)
		}
	}
	if d := p.Decide(Subject{}, []Request{req("jail", "securelevel", "0")}, nil); d.Allowed {
		t.Error("securelevel 0 is within 1..3")
	}
}

func TestSets(t *testing.T) {
	list := Sets()
	if len(list) < 5 {
		t.Fatalf("sets: %+v", list)
	}
	for _, s := range list {
		if s.Description == "" || !strings.Contains(s.Text, s.Name) {
			t.Errorf("set %+v", s)
		}
		mustParse(t, fmt.Sprintf("permit { sets = [%q] }", s.Name))
	}
	p := mustParse(t, "permit {\n sets = [\"network-tools\"]\n}")
	d := p.Decide(Subject{}, []Request{req("allow", "allow.raw_sockets", "true")}, nil)
	if !d.Allowed || d.Results[0].Reason != "permitted at host.hcl:2 (set network-tools)" {
		t.Errorf("%+v", d)
	}
	if d := p.Decide(Subject{}, []Request{req("devfs", "", "path bpf0 unhide")}, nil); d.Allowed {
		t.Error("ping does not need bpf")
	}
}

func TestAssertions(t *testing.T) {
	p := mustParse(t, `permit {
  images = ["db*"]
  sets   = ["shared-memory"]
  mounts = ["nullfs:/srv/db"]
}
test "the database" {
  image = "db:15"
  allowed {
    sysvipc = ["shm=new"]
    mounts  = ["nullfs:/srv/db/a:rw"]
  }
  refused {
    sysvipc = ["shm=inherit"]
    allow   = ["mount"]
    ports   = ["80"]
  }
}
test "others" {
  image = "web"
  allowed {
    sysvipc = ["shm=new"]
  }
}`)
	n, failures := p.Test()
	if n != 6 || len(failures) != 1 || failures[0].Where != "host.hcl:21" || failures[0].Test != "others" ||
		!strings.Contains(failures[0].Message, "no permit covers it") {
		t.Errorf("%d assertions, %+v", n, failures)
	}
}

// What an image writes must not become another word of the command that an
// operator copies.
func TestCommandIsQuoted(t *testing.T) {
	for in, want := range map[string]string{"port:80/tcp": "port:80/tcp", "a b": "'a b'",
		"devfs:path 'x*' unhide": `"devfs:path 'x*' unhide"`,
		"'$(reboot)'":            `''\''$(reboot)'\'''`, "": "''", "a;b": "'a;b'", "-\n": `$'-\012'`,
		"it's\u202e\x1b": `$'it\047s\342\200\256\033'`} {
		if got := shellQuote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
	s := Subject{Image: "tool:1", Repository: "tool", Digest: digestA}
	var many []Request
	for i := range 100 {
		many = append(many, req("port", "", fmt.Sprintf("%d/tcp", i+1)))
	}
	d := mustParse(t, "").Decide(s, many, nil)
	if cmd := d.ApproveCommand(s); len(cmd) > 300 || !strings.Contains(cmd, "100 refused requests") {
		t.Errorf("the command is %q", cmd)
	}
	if cmd := mustParse(t, `deny { ports = ["1-100"] }`).Decide(s, many, nil).ApproveCommand(s); cmd != "" {
		t.Errorf("a deny is to be approved: %q", cmd)
	}
}

// The block that would permit a request can be copied as it is seen, and permits
// that request: nothing in it begins a line or hides.
func TestPermitIsQuoted(t *testing.T) {
	const hostile = "/a], /allowed\n\"\\${x}%{y}\u202e\x1b[2J\u009b\U000e0041"
	for _, r := range []Request{req("mount", hostile, "tmpfs"), req("jail", "children.max", hostile),
		req("user", "", hostile), req("sysctl", "x.y", hostile)} {
		r.Source = FromImage
		block := permitBlock(Subject{Repository: "web"}, r)
		if n := strings.Count(block, "\n"); n != 3 || printable.Text(block) != block {
			t.Errorf("%s: %d lines: %q", r.Kind(), n, block)
		}
		p, err := Parse("host.hcl", []byte(block), devfsRules)
		if err != nil {
			t.Errorf("%s: %v\n%s", r.Kind(), err, block)
			continue
		}
		if d := p.Decide(Subject{Image: "web:1", Repository: "web"}, []Request{r}, nil); !d.Allowed {
			t.Errorf("%s: what would permit it does not: %+v\n%s", r.Kind(), d.Results, block)
		}
	}
	err := mustParse(t, "").Decide(Subject{Image: "web\nallowed"}, []Request{req("user", "", hostile)},
		nil).Err(Subject{Image: "web\nallowed"})
	if text := printable.Error(err); strings.Contains(text, "\nallowed") || text != err.Error() {
		t.Errorf("refused by %q", text)
	}
}

func TestKeys(t *testing.T) {
	for _, bad := range []string{"", "port", "port:", "port:high", "nothing:x", "jail:x", "mount:tmpfs",
		"mount:tmpfs on x", "allow:"} {
		if r, err := ParseKey(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, r)
		}
	}
}
