package test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testimage"
)

// kinds are requests of a job, by how it asks and the key of what it asks for.
// Those of a job that runs here too have no effect on a development host, or
// one that does no harm.
func kinds(host string) map[string]struct {
	set   func(*nomad.Job, *nomad.Task)
	key   string
	words string
} {
	config := func(name string, v any) func(*nomad.Job, *nomad.Task) {
		return func(_ *nomad.Job, k *nomad.Task) { k.Config[name] = v }
	}
	type one = struct {
		set   func(*nomad.Job, *nomad.Task)
		key   string
		words string
	}
	ostype := map[string]string{"linux": "kernel.ostype=Linux", "freebsd": "kern.ostype=FreeBSD"}[runtime.GOOS]
	name, value, _ := strings.Cut(ostype, "=")
	return map[string]one{
		"devfs": {config("devfs", []string{"path 'bpf[0-3]' unhide mode 0600"}),
			"devfs:path 'bpf[0-3]' unhide mode 600", "devfs rule"},
		"allow":   {config("allow", []string{"raw_sockets"}), "allow:raw_sockets", "allow.raw_sockets"},
		"jail":    {config("jail", map[string]string{"children.max": "2"}), "jail:children.max=2", "children.max=2"},
		"sysvipc": {config("sysvipc", map[string]string{"shm": "new"}), "sysvipc:shm=new", "sysvipc shm=new"},
		"sysctl":  {config("sysctl", map[string]string{name: value}), "sysctl:" + ostype, "sysctl " + ostype},
		"volume": {config("volumes", []string{host + ":/host:ro"}), "mount:nullfs:" + host + ":ro on /host",
			"nullfs:" + host},
		"tmpfs": {config("tmpfs", []string{"/scratch"}), "mount:tmpfs on /scratch", "mount tmpfs on /scratch"},
		"port":  {config("ports", map[string]string{"http": "799"}), "port:799/tcp", "799/tcp"},
	}
}

// decidesAndApproves takes each kind of request from the refusal, which the
// job's owner reads in the task's events, over an operator's approval to a
// running task and to the refusal after its revocation.
func decidesAndApproves(t *testing.T, c *cluster) {
	host := c.path("host")
	check(t, os.MkdirAll(host, 0o755))
	image, err := c.daemon.Image(t.Context(), "probe")
	check(t, err)
	for name, kind := range kinds(host) {
		t.Run(name, func(t *testing.T) {
			try := func(id, status string) *nomad.Allocation {
				j, task := job("policy-"+name+"-"+id, "exit", "0")
				kind.set(j, task)
				c.run(t, batch(j))
				return c.one(t, j, status)
			}
			wantMessage(t, try("refused", "failed"), "Driver Failure", kind.words, "no permit covers it",
				"asked for by the job", "freejail policy approve probe@"+image.Digest)
			a, err := c.daemon.Approve(t.Context(),
				client.ApproveRequest{Image: "probe@" + image.Digest, Requests: []string{kind.key}, Why: "the test"})
			check(t, err)
			wantMessage(t, try("approved", "complete"), "Terminated", "Exit Code: 0")
			_, err = c.daemon.Revoke(t.Context(), a.ID, "it is over")
			check(t, err)
			wantMessage(t, try("revoked", "failed"), kind.words, "no permit covers it")
		})
	}
}

// usersAreDenied has a policy refuse the superuser to jobs, and nobody else.
func usersAreDenied(t *testing.T, c *cluster) {
	c.configurable(t)("deny {\n  users = [\"root\"]\n  from  = [\"job\"]\n}\n")
	for user, status := range map[string]string{"root": "failed", "65534": "complete"} {
		j, task := job("user-"+user, "exit", "0")
		task.User = user
		c.run(t, batch(j))
		a := c.one(t, j, status)
		if user == "root" {
			wantMessage(t, a, "Driver Failure", "user root, asked for by the job", "denied at freejail.hcl:",
				"A deny cannot be approved")
		}
	}
}

// imagesAsk has an image that asks for something of every kind that an image
// can: all are named, and a permit that is narrowed to its namespace lets it in.
func imagesAsk(t *testing.T, c *cluster) {
	c.imports(t, "greedy", testimage.Spec{Manifest: `{"schemaVersion":1,"name":"greedy",
 "parameters":[{"name":"GREETING"}], "ports":[{"name":"http","port":81}],
 "requires":{"devfs":["path bpf0 unhide"],"allow":["raw_sockets"],"jail":{"children.max":"1"},"sysvipc":{"sem":"new"},"linux":true,"mounts":[{"type":"tmpfs","target":"/scratch","options":["size=1m"]}]}}`})
	configure := c.configurable(t)
	try := func(id, status string) *nomad.Allocation {
		j, task := job("greedy-"+id, "exit", "0")
		task.Config["image"] = "greedy"
		c.run(t, batch(j))
		return c.one(t, j, status)
	}
	parts := []string{"Driver Failure", "bpf0", "allow.raw_sockets", "children.max=1", "sem=new",
		"linux, asked for by the image", "tmpfs,size=1048576 on /scratch", "81/tcp"}
	wantMessage(t, try("refused", "failed"), parts...)
	permit := `
permit {
  images     = ["greedy"]
  namespaces = [%q]
  jobs       = ["greedy-*"]
  devfs      = ["path 'bpf*' unhide"]
  jail       = { "children.max" = "<=3" }
  mounts     = ["tmpfs:/scratch:size<=4MiB"]
  linux      = true
  sets       = ["network-tools", "shared-memory", "low-ports"]
}
%s`
	configure(fmt.Sprintf(permit, "other", ""))
	wantMessage(t, try("elsewhere", "failed"), parts...)
	configure(fmt.Sprintf(permit, "default", ""))
	wantMessage(t, try("permitted", "complete"), "Terminated", "Exit Code: 0")
	configure(fmt.Sprintf(permit, "default", "deny {\n  allow = [\"raw_*\"]\n}\n"))
	a := try("denied", "failed")
	wantMessage(t, a, "allow.raw_sockets", "denied at freejail.hcl:", "A deny cannot be approved")
	if all := messages(a.TaskStates["probe"]); slices.ContainsFunc(all,
		func(m string) bool { return strings.Contains(m, "policy approve") }) {
		t.Errorf("what is denied is to be approved: %q", all)
	}
}

// aStackOfItsOwn is what this version cannot give, whatever a policy permits.
func aStackOfItsOwn(t *testing.T, c *cluster) {
	c.imports(t, "netstack", testimage.Spec{Manifest: `{"schemaVersion":1,"requires":{"vnet":true}}`})
	c.configurable(t)("permit {\n  vnet = true\n}\n")
	j, task := job("netstack", "exit", "0")
	task.Config = map[string]any{"image": "netstack"}
	c.run(t, batch(j))
	wantMessage(t, c.one(t, j, "failed"), "Driver Failure", "the image asks for a network stack of its own", "and the network host is the host's own stack")
}

// modulesAreAskedFor has an image mount a file system that the kernel has to
// load first.
func modulesAreAskedFor(t *testing.T, c *cluster) {
	const module = "linsysfs"
	if runtime.GOOS != "freebsd" {
		t.Skip("only FreeBSD loads a module for a mount")
	}
	if mount.Known(module) {
		if out, err := exec.Command("kldunload", module).CombinedOutput(); err != nil {
			t.Skipf("%s is in use or part of the kernel: %s", module, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("kldunload", module).CombinedOutput(); err != nil {
			t.Errorf("kldunload: %v: %s", err, out)
		}
	})
	c.imports(t, "modules",
		testimage.Spec{Manifest: `{"schemaVersion":1,"requires":{"mounts":[{"type":"linsysfs","target":"/sys"}]}}`})
	configure := c.configurable(t)
	try := func(id, more, status string) *nomad.Allocation {
		configure("permit {\n  mounts = [\"linsysfs\"]\n" + more + "}\n")
		j, task := job("modules-"+id, "exit", "0")
		task.Config = map[string]any{"image": "modules", "args": task.Config["args"]}
		c.run(t, batch(j))
		return c.one(t, j, status)
	}
	wantMessage(t, try("refused", "", "failed"), "Driver Failure", "module linsysfs", "no permit covers it",
		"module:linsysfs")
	try("permitted", "  modules = [\"linsysfs\"]\n", "complete")
}
