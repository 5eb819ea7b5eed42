package policy

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestForms pins how requests are written for people, for operators, in a policy and in an
// approval. What is here lies on disks and in scripts.
type form struct {
	request                  Request
	text, key, permit, asked string // asked is another key of the request; empty for none
}

func TestForms(t *testing.T) {
	forms := []form{
		{req("devfs", "path 'bpf*' unhide mode 600", "path 'bpf*' unhide mode 600"),
			"devfs rule path 'bpf*' unhide mode 600", "devfs:path 'bpf*' unhide mode 600",
			`devfs = ["path 'bpf*' unhide mode 600"]`, ""},
		{req("allow", "allow.raw_sockets", "true"), "allow.raw_sockets", "allow:raw_sockets", `allow = ["raw_sockets"]`,
			"allow:allow.raw_sockets"},
		{req("jail", "children.max", "3"), "jail parameter children.max=3", "jail:children.max=3",
			`jail = { "children.max" = "3" }`, ""},
		{req("jail", "a", "b=c*"), "jail parameter a=b=c*", "jail:a=b=c*", `jail = { "a" = "b=c\\*" }`, ""},
		{req("sysvipc", "shm", "new"), "sysvipc shm=new", "sysvipc:shm=new", `sysvipc = ["shm=new"]`, ""},
		{req("sysctl", "kern.x", "[1]"), "sysctl kern.x=[1]", "sysctl:kern.x=[1]", `sysctl = { "kern.x" = "\\[1]" }`,
			""},
		{req("mount", "/tmp", "tmpfs"), "mount tmpfs on /tmp", "mount:tmpfs on /tmp", `mounts = ["tmpfs:/tmp"]`, ""},
		{req("mount", "/tmp", "tmpfs,size=4096,suid"), "mount tmpfs,size=4096,suid on /tmp",
			"mount:tmpfs,size=4096,suid on /tmp",
			`mounts = ["tmpfs:/tmp:size<=4096,suid"]`, ""},
		{req("mount", "/data", "nullfs:/srv/a b:ro"), "mount nullfs:/srv/a b:ro on /data",
			"mount:nullfs:/srv/a b:ro on /data",
			`mounts = ["nullfs:/srv/a b:ro"]`, ""},
		{req("mount", "/data", "nullfs:/srv:rw,suid"), "mount nullfs:/srv:rw,suid on /data",
			"mount:nullfs:/srv:rw,suid on /data",
			`mounts = ["nullfs:/srv:rw,suid"]`, ""},
		{req("mount", "/data", "nullfs:/srv/a,b:ro"), "mount nullfs:/srv/a,b:ro on /data",
			"mount:nullfs:/srv/a,b:ro on /data", "-", ""},
		{req("port", "http", "80/tcp"), "port 80/tcp (http)", "port:80/tcp", `ports = ["80/tcp"]`, ""},
		{req("port", "", "80-90/udp"), "port 80-90/udp", "port:80-90/udp", `ports = ["80-90/udp"]`, ""},
		{req("service", "web", "v1"), "service web (v1)", "service:web:v1", `services = ["web:v1"]`, ""},
		{req("service", "web", `a\,b,c\\`), `service web (a\,b,c\\)`, `service:web:a\,b,c\\`,
			`services = ["web:a\\,b,c\\\\"]`, `service:web:c\\,a\,b`},
		{req("service", "web", ""), "service web", "service:web", `services = ["web"]`, "service:web:"},
		{req("user", "", "root"), "user root", "user:root", `users = ["root"]`, ""},
		{req("user", "", "a?"), "user a?", "user:a?", `users = ["a\\?"]`, ""},
		{req("trace", "", "ann"), "trace by ann", "trace:ann", `traces = ["ann"]`, ""},
		{req("module", "", "linprocfs"), "kernel module linprocfs", "module:linprocfs", `modules = ["linprocfs"]`, ""},
		{req("nfs", "", "root"), "root over NFS", "nfs:root", "nfs = true", ""},
		{req("vnet", "", "true"), "vnet", "vnet", "vnet = true", ""},
		{req("linux", "", "true"), "linux", "linux", "linux = true", ""},
		{req("signature", "", "rel*,ops"), "a signature of rel* or ops", "signature:rel*,ops", "-", ""},
		{req("network", "", "dmz"), "network dmz", "network:dmz", `networks = ["dmz"]`, ""},
		{req("network", "", "a*"), "network a*", "network:a*", `networks = ["a\\*"]`, ""},
		{req("address", "", "192.0.2.7"), "address 192.0.2.7", "address:192.0.2.7", `addresses = ["192.0.2.7"]`, ""},
		{req("address", "", "2001:db8::1"), "address 2001:db8::1", "address:2001:db8::1",
			`addresses = ["2001:db8::1"]`, "address:2001:db8:0::1"},
		{req("publish", "", "*:53/udp"), "publish *:53/udp", "publish:*:53/udp", `publish = ["*:53/udp"]`, ""},
		{req("publish", "", "192.0.2.7:8000-8010/tcp"), "publish 192.0.2.7:8000-8010/tcp",
			"publish:192.0.2.7:8000-8010/tcp", `publish = ["192.0.2.7:8000-8010/tcp"]`, ""},
		{req("publish", "", "[2001:db8::1]:80/tcp"), "publish [2001:db8::1]:80/tcp",
			"publish:[2001:db8::1]:80/tcp", `publish = ["[2001:db8::1]:80/tcp"]`, "publish:[2001:db8:0::1]:80/tcp"},
	}
	pinned := map[Kind]bool{}
	for _, c := range forms {
		kind, _, _ := strings.Cut(c.key, ":")
		pinned[Kind(kind)] = true
		if got := c.request.String(); got != c.text {
			t.Errorf("%s is said as %q, want %q", c.key, got, c.text)
		}
		if got := c.request.Key(); got != c.key {
			t.Errorf("the key is %q, want %q", got, c.key)
		}
		if got := c.request.permit(); c.permit != "-" && got != c.permit {
			t.Errorf("%s is permitted by %s, want %s", c.key, got, c.permit)
		}
		for _, key := range []string{c.key, c.asked} {
			if back, err := ParseKey(key); key != "" &&
				(err != nil || (Request{back, ""}).identity() != c.request.identity()) {
				t.Errorf("%s is read as %+v: %v", key, back, err)
			}
		}
	}
	for _, kind := range Kinds() {
		if !pinned[kind] {
			t.Errorf("no form of %s is pinned", kind)
		}
	}
}

// An approval that another version has written is read, and written as it was.
func TestFormOnDisk(t *testing.T) {
	read := map[Kind]bool{}
	for _, text := range []string{
		`{"kind":"devfs","name":"path bpf unhide","value":"path bpf unhide","source":"image"}`,
		`{"kind":"allow","name":"allow.raw_sockets","value":"true","source":"job"}`,
		`{"kind":"jail","name":"children.max","value":"3","source":""}`,
		`{"kind":"sysvipc","name":"shm","value":"inherit","source":"image"}`,
		`{"kind":"sysctl","name":"kern.ipc.somaxconn","value":"1024","source":"image"}`,
		`{"kind":"mount","name":"/data","value":"nullfs:/srv:ro,size=5,suid","source":"host"}`,
		`{"kind":"mount","name":"/data","value":"nullfs:/srv/a,b:ro","source":"job"}`,
		`{"kind":"mount","name":"/tmp","value":"tmpfs,mode=777","source":"job"}`,
		`{"kind":"mount","name":"tmp","value":"","source":"job"}`,
		`{"kind":"port","name":"http","value":"80/tcp","source":"image"}`,
		`{"kind":"port","value":"80","source":""}`,
		`{"kind":"port","value":"nonsense","source":""}`,
		`{"kind":"service","name":"web","value":"a\\,b,c","source":"image"}`,
		`{"kind":"service","name":"web","value":"","source":"image"}`,
		`{"kind":"user","value":"root","source":"image"}`,
		`{"kind":"module","value":"linprocfs","source":"image"}`,
		`{"kind":"trace","value":"ann","source":""}`,
		`{"kind":"nfs","value":"root","source":"job"}`,
		`{"kind":"vnet","value":"true","source":"image"}`,
		`{"kind":"linux","value":"true","source":"image"}`,
		`{"kind":"signature","value":"rel*,ops","source":""}`,
		`{"kind":"network","value":"dmz","source":"job"}`,
		`{"kind":"address","value":"2001:db8::7","source":"job"}`,
		`{"kind":"address","value":"::ffff:192.0.2.7","source":"job"}`,
		`{"kind":"publish","value":"*:8000-8010/udp","source":"job"}`,
		`{"kind":"publish","value":"[2001:db8::7]:80/tcp","source":"job"}`,
		`{"kind":"publish","value":"192.0.2.7:80","source":"job"}`,
		`{"kind":"of-tomorrow","name":"a","value":"b","source":"job"}`,
	} {
		var r Request
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if back, err := json.Marshal(r); err != nil || string(back) != text {
			t.Errorf("%s is written as %s: %v", text, back, err)
		}
		read[r.Kind()] = true
	}
	for _, kind := range Kinds() {
		if !read[kind] {
			t.Errorf("no form of %s is read", kind)
		}
	}
}

// The page of the policy has each kind with a key of it, and each attribute of a block.
func TestKindsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/policy.md")
	if err != nil {
		t.Skip("the documentation is not here")
	}
	row := regexp.MustCompile("(?m)^\\| ([a-z]+) \\| .* \\| `([^`]+)` \\|$")
	documented := map[Kind]bool{}
	for _, m := range row.FindAllStringSubmatch(string(page), -1) {
		p, err := ParseKey(m[2])
		if err != nil || p.Kind() != Kind(m[1]) || p.Key() != m[2] {
			t.Errorf("%s has the key %s, which is read as %v: %v", m[1], m[2], p, err)
		}
		documented[Kind(m[1])] = true
	}
	for name, k := range kinds {
		if !documented[name] {
			t.Errorf("the page has no row of %s", name)
		}
		if !strings.Contains(string(page), "`"+k.attribute+"`") && !strings.Contains(string(page), "`"+k.attribute+
			" = ") {
			t.Errorf("the page does not name the attribute %s", k.attribute)
		}
	}
}
