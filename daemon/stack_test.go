package daemon

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// lanConfig is a network with stacks of their own, and what its tasks ask for here.
const lanConfig = `network "lan" {
  mode      = "nat"
  subnet4   = "10.123.7.0/24"
  interface = "` + loopback + `"
  dns       = ["192.0.2.53"]
}
permit {
  networks  = ["lan"]
  ports     = ["1-65535"]
  publish   = ["*:1-65535"]
  addresses = ["10.123.7.0/24"]
}
`

const answering = `{"schemaVersion":1,"ports":[{"name":"web","port":8080}]}`

// noStack wants nothing of a network to be left.
func noStack(t *testing.T, dir string) {
	t.Helper()
	nothingLeft(t, dir)
	if l := links(t); len(l) > 0 {
		t.Errorf("interfaces: %v", l)
	}
	if s := stacks(t, dir); len(s) > 0 {
		t.Errorf("stacks: %v", s)
	}
}

func onLAN(id, path string, publish ...string) client.TaskSpec {
	spec := client.TaskSpec{ID: id, Owner: "cli", Image: path, Network: "lan", Command: "answer"}
	for _, text := range publish {
		p, err := client.ParsePublication(text)
		if err != nil {
			panic(err)
		}
		spec.Publish = append(spec.Publish, p)
	}
	return spec
}

func begin(t *testing.T, c *client.Client, spec client.TaskSpec) *client.Task {
	t.Helper()
	i, err := c.Start(t.Context(), spec)
	if err == nil {
		err = awaitLog(c, spec.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func remove(t *testing.T, c *client.Client, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := c.Destroy(t.Context(), id, true); err != nil {
			t.Error(err)
		}
	}
}

// Two tasks of one image listen on one port, each in a stack of its own, and are reached where they are
// published; they keep what they have over a kill and an upgrade of the daemon.
func TestTwoTasksOnOnePort(t *testing.T) {
	ownHost(t)
	dir := shortDir(t)
	c, stop := daemonAt(t, dir, lanConfig)
	path := archive(t, answering)
	one, two := begin(t, c, onLAN("n1", path, "127.0.0.1:8081:8080")), begin(t, c, onLAN("n2", path, "8082:8080"))
	if one.Network == nil || two.Network == nil || one.Network.Addr4 == two.Network.Addr4 {
		t.Fatalf("%+v and %+v", one.Network, two.Network)
	}
	reached := func(when string) {
		t.Helper()
		// Who asks for a task waits for the recovery, by which the ports are held again.
		for _, i := range []*client.Task{one, two} {
			now, err := c.Task(t.Context(), i.ID)
			if err != nil || now.State != client.Running || *now.Network != *i.Network {
				t.Errorf("%s: %s is %s with %+v, was %+v: %v", when, i.ID, now.State, now.Network, i.Network, err)
			}
		}
		for at, i := range map[string]*client.Task{"127.0.0.1:8081": one, "127.0.0.1:8082": two,
			one.Network.Addr4.String() + ":8080": one} {
			if got, err := say(at); err != nil || got != i.Network.Addr4.String() {
				t.Errorf("%s: %s answers %q, want %s: %v", when, at, got, i.Network.Addr4, err)
			}
		}
		third := onLAN("n3", path, "8081:8080")
		if _, err := c.Start(t.Context(), third); err == nil || !strings.Contains(err.Error(), "taken on this host by task n1") {
			t.Errorf("%s: a port that is published: %v", when, err)
		}
	}
	reached("at first")
	stop(os.Kill)
	c, _ = daemonAt(t, dir, lanConfig)
	reached("after a kill")
	if _, err := c.Upgrade(t.Context(), client.UpgradeRequest{}); err != nil {
		t.Fatal(err)
	}
	reached("after an upgrade")
	remove(t, c, "n1")
	four := begin(t, c, onLAN("n4", path, "127.0.0.1:8081:8080")) // the port is free when its task has ended
	if four.Network.Addr4 == one.Network.Addr4 {
		t.Errorf("the address %s does not rest", one.Network.Addr4)
	}
	remove(t, c, "n2", "n4")
	noStack(t, dir)
}

// What a task is told of names and ports is of its own stack.
func TestATaskKnowsItsStack(t *testing.T) {
	ownHost(t)
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, lanConfig)
	spec := onLAN("s1", archive(t, answering), "9090:8080")
	spec.Addresses, spec.Hostname = []string{"10.123.7.9"}, "web.example.com"
	begin(t, c, spec)
	var out strings.Builder
	for _, name := range []string{"/etc/resolv.conf", "/etc/hosts"} {
		if _, err := c.Exec(t.Context(), "s1", client.ExecSpec{Args: []string{"/bin/prog", "names", name, "/dev/null"}},
			client.ExecIO{Stdout: &out}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"nameserver 192.0.2.53\n", "10.123.7.9\tweb.example.com web\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %q", want, out.String())
		}
	}
	i, err := c.Task(t.Context(), "s1")
	if err != nil || len(i.Ports) == 0 || i.Ports[0].Port != 9090 || i.Ports[0].To != 8080 {
		t.Errorf("%+v %v", i.Ports, err)
	}
	if !hasEvent(t, c, "s1", "network lan: 10.123.7.9") {
		t.Error("no event tells of its address")
	}
	remove(t, c, "s1")
	noStack(t, dir)
}

// A daemon that is killed at a step of a network leaves nothing that the next does not find.
func TestKilledAtEachStepOfAStack(t *testing.T) {
	ownHost(t)
	path := archive(t, answering)
	for _, at := range []string{"address:journalled", "address:done", "network:journalled", "network:recorded",
		"network:done", "publish:journalled", "publish:done", "jail:done", "publish:undone", "network:undone",
		"address:undone", "address:forgotten"} {
		t.Run(at, func(t *testing.T) {
			ownHost(t) // a subtest has a thread of its own
			dir := shortDir(t)
			t.Setenv("FREEJAIL_FAULT_POINT", at)
			c, stop := daemonAt(t, dir, lanConfig)
			_, err := c.Start(t.Context(), onLAN("k1", path, "8083:8080"))
			if err == nil {
				err = c.Destroy(t.Context(), "k1", true)
			}
			if strings.HasSuffix(at, ":undone") || strings.HasSuffix(at, ":forgotten") {
				stop(syscall.SIGKILL) // it may have been told of its end before
				t.Setenv("FREEJAIL_FAULT_POINT", "")
			} else {
				wasKilled(t, err, stop)
			}
			c, _ = daemonAt(t, dir, lanConfig)
			begin(t, c, onLAN("k2", path, "8083:8080"))
			remove(t, c, "k1", "k2")
			noStack(t, dir)
		})
	}
}

// The tasks of an allocation share a stack, in whichever order they end, and over a kill of the daemon.
func TestTasksOfAGroupShareAStack(t *testing.T) {
	ownHost(t)
	dir := shortDir(t)
	c, stop := daemonAt(t, dir, lanConfig)
	path, plain := archive(t, answering), archive(t, `{"schemaVersion":1}`)
	of := func(id, path string, command ...string) client.TaskSpec {
		s := onLAN(id, path)
		s.Owner, s.Share, s.Labels = "nomad", "group", map[string]string{"alloc_id": fmt.Sprint("a-", dir[len(dir)-6:])}
		s.Command, s.Args = command[0], command[1:]
		return s
	}
	order := [][]string{{"g1", "g2"}, {"g2", "g1"}}
	for _, ends := range order {
		one := begin(t, c, of("g1", path, "answer"))
		two := begin(t, c, of("g2", plain, "fetch", "127.0.0.1:8080"))
		if *one.Network != *two.Network {
			t.Errorf("%+v and %+v", one.Network, two.Network)
		}
		if e, err := c.Wait(t.Context(), "g2"); err != nil || e.Code != 0 {
			t.Errorf("localhost: %+v %v", e, err)
		}
		if _, err := c.Start(t.Context(), of("g3", path, "answer")); err == nil ||
			!strings.Contains(err.Error(), "taken in the network stack of this allocation by task g1") {
			t.Errorf("one port of two tasks: %v", err)
		}
		remove(t, c, "g2")
		begin(t, c, of("g2", plain, "inside"))
		stop(os.Kill)
		c, stop = daemonAt(t, dir, lanConfig)
		for _, id := range slices.Sorted(slices.Values(ends)) {
			if i, err := c.Task(t.Context(), id); err != nil || i.State != client.Running {
				t.Errorf("%s: %+v %v", id, i, err)
			}
		}
		remove(t, c, ends[0])
		if n := len(links(t)); n != 1 {
			t.Errorf("%d links after the first end", n)
		}
		remove(t, c, ends[1])
		noStack(t, dir)
	}
}

// What a network cannot give is refused with what could.
func TestNetworksThatAreRefused(t *testing.T) {
	ownHost(t)
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, strings.Replace(lanConfig, `networks  = ["lan"]`, `networks = ["none", "host"]`, 1))
	path := archive(t, answering)
	for want, change := range map[string]func(*client.TaskSpec){
		"network lan":                        func(*client.TaskSpec) {},
		"it has: host, none, lan":            func(s *client.TaskSpec) { s.Network = "wan" },
		"no port of the host leads to tasks": func(s *client.TaskSpec) { s.Network = "none" },
		"is not in a pool of the network":    func(s *client.TaskSpec) { s.Addresses = []string{"10.0.0.1"} },
		"needs a network with a stack of its own": func(s *client.TaskSpec) {
			s.Network, s.Share, s.Owner, s.Labels = "host", "group", "nomad", map[string]string{"alloc_id": "a"}
		},
		"an allocation of Nomad's": func(s *client.TaskSpec) { s.Share = "group" },
		"jail parameter ip4.addr":  func(s *client.TaskSpec) { s.Wants.Jail = map[string]string{"ip4.addr": "10.0.0.1"} },
	} {
		spec := onLAN("r1", path, "8084:8080")
		change(&spec)
		if _, err := c.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	noStack(t, dir)
}
