package daemon

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testconsul"
	"github.com/freejail/freejail/internal/testimage"
)

const checked = `consul {
  address = "CONSUL"
}
permit {
  devfs    = ["path 'bpf*' unhide mode 600"]
  allow    = ["chflags"]
  mounts   = ["tmpfs:/tmp:size<=64MiB", "nullfs:DIR/srv:ro"]
  ports    = ["1024-65535/tcp"]
  services = ["web:v1,v2"]
}
permit {
  images   = ["file/**"]
  jobs     = ["shop"]
  services = ["own:*"]
}
deny {
  users    = ["root", "81"]
  from     = ["job"]
}
deny {
  services = ["vault", "*:admin"]
}
`

// What policy check says of a task is what its start would say, of image and job.
func TestCheckIsTheStart(t *testing.T) {
	agent := testconsul.New(t)
	agent.Start()
	v := newVictim(t, strings.ReplaceAll(checked, "CONSUL", agent.Addr))
	img := v.image(testimage.Spec{Name: "web", Cmd: []string{"inside"},
		Files: map[string]string{"/etc/passwd": "toor:*:0:0::/:/x\nhttp:*:81:81::/:/x\nother:*:82:82::/:/x\n"},
		Manifest: `{"schemaVersion":1,"parameters":[{"name":"A","default":"b"}],
			"ports":[{"name":"http","port":8080,"service":{"name":"web","tags":["v1"]}},{"name":"dns","port":5353,"protocol":"tcp"}]}`})
	srv := filepath.Join(v.dir, "srv")
	volume := func(source, target, options string) client.TaskSpec {
		m := client.Mount{Source: source, Target: target, ReadOnly: true, Options: options}
		if source == "" {
			m.Type = "tmpfs"
		}
		return client.TaskSpec{Volumes: []client.Mount{m}}
	}
	service := func(o client.PortOverride) client.TaskSpec {
		return client.TaskSpec{Service: client.Overrides{Ports: map[string]client.PortOverride{"http": o}}}
	}
	shop := service(client.PortOverride{Name: "Shop", Tags: []string{"any"}})
	shop.Labels = map[string]string{"job": "shop", "namespace": "prod"}
	for name, c := range map[string]struct {
		spec client.TaskSpec
		want string // a word of the answer; empty: it is allowed
	}{
		"the image alone":  {client.TaskSpec{}, ""},
		"a permitted port": {client.TaskSpec{Ports: map[string]client.PortBinding{"http": {Port: 8081}}}, ""},
		"a port below": {client.TaskSpec{Ports: map[string]client.PortBinding{"http": {Port: 81}}},
			"port 81/tcp"},
		"a number for no port of the image": {client.TaskSpec{Ports: map[string]client.PortBinding{"x": {Port: 8081}}},
			`declares no port "x"; it declares: http, dns`},
		"a port of the job's own": {client.TaskSpec{Ports: map[string]client.PortBinding{"x": {Port: 8081, Label: "x"}}}, ""},
		"one that is refused": {client.TaskSpec{Ports: map[string]client.PortBinding{"x": {Port: 81, Label: "y"}}},
			"port 81/tcp (x), asked for by the job"},
		"one that Nomad's scheduler gives": {client.TaskSpec{Ports: map[string]client.PortBinding{"x": {Port: 20000,
			Protocol: "udp", Label: "x"}}}, ""},
		"a permitted directory":    {volume(srv, "/srv", ""), ""},
		"another directory":        {volume(filepath.Join(v.dir, "host"), "/srv", ""), "nullfs"},
		"set-uid programs":         {volume(srv, "/srv", "suid"), "suid"},
		"a small tmpfs":            {volume("", "/tmp/x", "size=1m"), ""},
		"a large tmpfs":            {volume("", "/tmp/x", "size=1g"), "tmpfs"},
		"tmpfs without a size":     {volume("", "/tmp/x", ""), "tmpfs"},
		"root":                     {client.TaskSpec{User: "root"}, "denied"},
		"another user":             {client.TaskSpec{User: "other"}, ""},
		"root by another name":     {client.TaskSpec{User: "toor"}, "denied"},
		"a number by its name":     {client.TaskSpec{User: "http"}, "denied"},
		"a permission":             {client.TaskSpec{Wants: client.Wants{Allow: []string{"chflags"}}}, ""},
		"another permission":       {client.TaskSpec{Wants: client.Wants{Allow: []string{"mount"}}}, "allow.mount"},
		"a device":                 {client.TaskSpec{Wants: client.Wants{Devfs: []string{"path bpf0 unhide"}}}, ""},
		"another device":           {client.TaskSpec{Wants: client.Wants{Devfs: []string{"path mem unhide"}}}, "mem"},
		"a parameter that is none": {client.TaskSpec{Parameters: map[string]string{"X": "y"}}, "no parameter"},
		"an unknown user":          {client.TaskSpec{User: "nobody"}, `no user "nobody"`},
		"a limit":                  {client.TaskSpec{Limits: client.Limits{MemoryBytes: 64 << 20}}, ""},
		"a permitted tag":          {service(client.PortOverride{Tags: []string{"v2"}}), ""},
		"another tag":              {service(client.PortOverride{Tags: []string{"v3"}}), "service web"},
		"another name":             {service(client.PortOverride{Name: "bank"}), "service bank"},
		"a denied name":            {service(client.PortOverride{Name: "Vault"}), "denied"},
		"a denied tag":             {service(client.PortOverride{Tags: []string{"v1", "Admin"}}), "denied"},
		"the job's own name":       {shop, ""},
		"no service":               {service(client.PortOverride{Disabled: true, Name: "vault"}), ""},
		"no services":              {client.TaskSpec{Service: client.Overrides{Disabled: true}}, ""},
		"of a port that is none": {client.TaskSpec{
			Service: client.Overrides{Ports: map[string]client.PortOverride{"x": {}}}}, "declares no port"},
		"at this host":         {service(client.PortOverride{Address: "127.0.0.1"}), ""},
		"at another's address": {service(client.PortOverride{Address: "192.0.2.1"}), "an address of this host"},
		"at a name": {service(client.PortOverride{Address: "vault.example"}),
			"an address of this host"},
		"Consul's own":               {service(client.PortOverride{Name: "consul"}), "Consul's servers"},
		"a tag of freejail's":        {service(client.PortOverride{Tags: []string{"freejail-host"}}), "is reserved"},
		"a tag that is not shown":    {service(client.PortOverride{Tags: []string{"a\nb"}}), "printable characters"},
		"a root over NFS, of nobody": {client.TaskSpec{Storage: "nfs"}, "nfs"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := c.spec
			spec.ID, spec.Owner, spec.Image = "task", "nomad", img
			d, err := v.c.CheckPolicy(t.Context(), spec)
			if err == nil && !d.Allowed {
				err = &client.Error{Code: client.CodeRefused, Message: fmt.Sprint(d.Results), Decision: d}
			}
			_, started := v.c.Start(t.Context(), spec)
			if started == nil {
				if err := v.c.Destroy(t.Context(), "task", true); err != nil {
					t.Fatal(err)
				}
			}
			if (started == nil) != (c.want == "") || started != nil &&
				!strings.Contains(strings.ToLower(started.Error()), strings.ToLower(c.want)) {
				t.Errorf("the start: %v, want %q", started, c.want)
			}
			same(t, err, started)
		})
	}
}

// same compares what a check and a start say.
func same(t *testing.T, checked, started error) {
	t.Helper()
	var a, b *client.Error
	if (checked == nil) != (started == nil) || errors.As(checked, &a) != errors.As(started, &b) {
		t.Errorf("the check: %v\nthe start: %v", checked, started)
		return
	}
	if a != nil && a.Decision != nil && b.Decision != nil {
		decision := *a.Decision
		decision.Notes = nil // of what nobody decides: the check alone tells it
		a.Decision = &decision
	}
	switch {
	case a == nil:
	case a.Code != b.Code || (a.Decision == nil) != (b.Decision == nil) || a.Decision == nil && a.Message != b.Message:
		t.Errorf("the check: %v\nthe start: %v", a, b)
	case a.Decision != nil && !reflect.DeepEqual(a.Decision, b.Decision):
		t.Errorf("the check decides %+v\nthe start decides %+v", a.Decision, b.Decision)
	}
}

// The name root is of another user where the image's files say so.
func TestCheckOfAnotherRoot(t *testing.T) {
	v := newVictim(t, "deny {\n users = [\"alice\"]\n}\n")
	for name, c := range map[string]struct{ user, passwd, want string }{
		"root is alice":   {"root", "root:*:1001:1001::/:/x\nalice:*:1001:1001::/:/x\n", "denied"},
		"0 is alice":      {"0", "0:*:1001:1001::/:/x\nalice:*:1001:1001::/:/x\n", "denied"},
		"alice is root":   {"", "alice:*:0:0::/:/x\n", "denied"},
		"root is root":    {"root", "root:*:0:0::/:/x\nalice:*:1001:1001::/:/x\n", ""},
		"there are none":  {"", "", ""},
		"root has no uid": {"root", "root:*:x:0::/:/x\n", "/etc/passwd"},
	} {
		t.Run(name, func(t *testing.T) {
			img := v.image(testimage.Spec{Name: "prog", Cmd: []string{"inside"}, User: c.user,
				Files: map[string]string{"/etc/passwd": c.passwd}})
			spec := client.TaskSpec{ID: "task", Owner: "nomad", Image: img, Args: []string{"inside"}}
			d, err := v.c.CheckPolicy(t.Context(), spec)
			if err == nil && !d.Allowed {
				err = &client.Error{Code: client.CodeRefused, Message: fmt.Sprint(d.Results), Decision: d}
			}
			_, started := v.c.Start(t.Context(), spec)
			if started == nil {
				if err := v.c.Destroy(t.Context(), "task", true); err != nil {
					t.Fatal(err)
				}
			}
			if (started == nil) != (c.want == "") || started != nil && !strings.Contains(started.Error(), c.want) {
				t.Errorf("the start: %v, want %q", started, c.want)
			}
			same(t, err, started)
		})
	}
}
