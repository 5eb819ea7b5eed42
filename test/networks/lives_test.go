package networks

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
)

func init() {
	programs["cat"] = func(args []string) int {
		text, err := os.ReadFile(args[0])
		return tell(string(text), err)
	}
}

// part is a task of a group, with what its config and its block say besides.
func part(name, image, config, more string) string {
	return fmt.Sprintf("task %q {\n driver = \"freejail\"\n config {\n image = %q\n %s\n }\n resources {\n cpu = 50\n"+
		" memory = 32\n }\n %s\n}\n", name, image, config, more)
}

// group is a job of tasks, with what its network says.
func group(name, network string, parts ...string) string {
	return fmt.Sprintf("job %q {\n datacenters = [\"*\"]\n group \"group\" {\n network {\n %s\n }\n restart {\n "+
		"attempts = 0\n mode = \"fail\"\n }\n reschedule {\n attempts = 0\n unlimited = false\n }\n %s\n }\n}\n", name, network,
		strings.Join(parts, ""))
}

// with has more after a line of a job.
func with(job, line, more string) string { return strings.Replace(job, line, line+"\n "+more+"\n", 1) }

func hook(when string, sidecar bool) string {
	return fmt.Sprintf("lifecycle {\n hook = %q\n sidecar = %v\n }", when, sidecar)
}

const sharesLAN = "network = \"lan\"\n share = \"group\"\n "

// TestNomadLives has a job's tasks begin, begin again, change and end in every way that Nomad has.
func TestNomadLives(t *testing.T) {
	c := newCluster(t)
	for name, run := range map[string]func(*testing.T){"hooks": c.hooks, "restarts": c.restarts,
		"change": c.changesNetwork, "static": c.staticPort, "system": c.systemJob, "batch": c.batchAlone,
		"ports": c.portsOfAGroup, "names": c.namesOfAGroup, "example": c.exampleJob} {
		t.Run(name, run)
	}
}

// hooks are tasks before and after the main one, in its stack.
func (c *cluster) hooks(t *testing.T) {
	text := group("hooks", "port \"http\" {\n to = 8080\n }",
		part("before", "plain", sharesLAN+"ports = []\n args = [\"true\"]", hook("prestart", false)),
		part("side", "plain", sharesLAN+"ports = []", hook("prestart", true)),
		part("web", "web", sharesLAN+everywhere[1:], ""),
		part("started", "plain", sharesLAN+"ports = []\n args = [\"true\"]", hook("poststart", false)),
		part("after", "plain", sharesLAN+"ports = []\n args = [\"fetch\", \"http://localhost:8080/\"]",
			hook("poststop", false)))
	a := c.run(t, text, "running")
	serves(t, "hooks", hostPort(t, a, "http"))
	c.nearby(t, a)
	before := c.taskOf(t, a, "web")
	check(t, c.nomad.Client.Allocations().Restart(a, "web", nil))
	c.another(t, a, "web", before)
	c.nearby(t, a)
	serves(t, "hooks", hostPort(t, a, "http"))
	_, err := c.nomad.Client.Allocations().Stop(a, nil)
	check(t, err)
	await(t, "the allocation to end", func() error {
		now, _, err := c.nomad.Client.Allocations().Info(a.ID, nil)
		if err == nil && now.ClientStatus == "running" {
			err = errors.New("it is running")
		}
		if err == nil && now.TaskStates["after"].State != "dead" {
			err = fmt.Errorf("its poststop task is %s", now.TaskStates["after"].State)
		}
		if err == nil && !now.TaskStates["after"].Failed {
			t.Error("the poststop task reached the task that was over")
		}
		return err
	})
	c.left(t, a)
}

// nearby has a sidecar reach the main task on localhost.
func (c *cluster) nearby(t *testing.T, a *api.Allocation) {
	t.Helper()
	await(t, "the main task on localhost", func() error {
		_, err := c.exec(t, a, "side", "fetch", "http://localhost:8080/")
		return err
	})
	if web, side := c.taskOf(t, a, "web").Network, c.taskOf(t, a, "side").Network; *web != *side {
		t.Errorf("the main task has %+v, its sidecar %+v", web, side)
	}
}

// another waits until a task is another one than before.
func (c *cluster) another(t *testing.T, a *api.Allocation, name string, before client.Task) {
	t.Helper()
	await(t, name+" to be another task", func() error {
		if now := c.taskOf(t, a, name); now.Spec.ID == before.Spec.ID {
			return errors.New("it is the same")
		}
		return nil
	})
}

// left waits until nothing is left of an allocation's network.
func (c *cluster) left(t *testing.T, a *api.Allocation) {
	t.Helper()
	await(t, "the stack to go", func() error {
		list, err := c.Networks(t.Context())
		for _, n := range list {
			for _, id := range n.Tasks {
				if task, err := c.Task(t.Context(), id); err == nil && task.Spec.Labels["alloc_id"] == a.ID {
					return fmt.Errorf("task %s is in %s", id, n.Name)
				}
			}
		}
		return err
	})
}

// restarts are those of a task, of all, and of the client, and signals and commands for the task.
func (c *cluster) restarts(t *testing.T) {
	a := c.run(t, group("restarts", "port \"http\" {\n to = 8080\n }",
		part("side", "plain", sharesLAN+"ports = []", ""), part("web", "web", sharesLAN+everywhere[1:], "")), "running")
	c.nearby(t, a)
	for _, tasks := range [][]string{{"side"}, {"web"}, {"side", "web"}} {
		name := ""
		if len(tasks) == 1 {
			name = tasks[0]
		}
		before := map[string]client.Task{}
		for _, one := range tasks {
			before[one] = c.taskOf(t, a, one)
		}
		check(t, c.nomad.Client.Allocations().Restart(a, name, nil))
		for _, one := range tasks {
			c.another(t, a, one, before[one])
		}
		c.nearby(t, a)
		serves(t, "restarts", hostPort(t, a, "http"))
	}
	before := c.taskOf(t, a, "web")
	check(t, c.nomad.End(syscall.SIGKILL))
	check(t, c.nomad.Start(t.Context()))
	c.nearby(t, a)
	if now := c.taskOf(t, a, "web"); now.PID != before.PID || *now.Network != *before.Network {
		t.Errorf("after a crash of the client: %+v, before: %+v", now, before)
	}
	var out bytes.Buffer
	code, err := c.nomad.Client.Allocations().Exec(t.Context(), a, "side", false,
		[]string{"/bin/prog", "fetch", "http://localhost:8080/"}, strings.NewReader(""), &out, &out, nil, nil)
	if err != nil || code != 0 || !strings.Contains(out.String(), "job restarts") {
		t.Errorf("nomad alloc exec: %d %v %s", code, err, &out)
	}
	check(t, c.nomad.Client.Allocations().Signal(a, nil, "web", "SIGTERM"))
	c.left(t, a)
}

// changesNetwork has a job name another network: another allocation has it.
func (c *cluster) changesNetwork(t *testing.T) {
	text := func(network string) string { return job("changes", "to = 8080", "", "web", named(network), "") }
	a := c.run(t, text("lan"), "running")
	serves(t, "changes", hostPort(t, a, "http"))
	for _, network := range []string{"office", "front", "other"} {
		b := c.run(t, text(network), "running")
		if got := c.taskOf(t, b, "web").Network.Name; b.ID == a.ID || got != network {
			t.Errorf("allocation %s after %s is in %s, want %s", b.ID, a.ID, got, network)
		}
		serves(t, "changes", hostPort(t, b, "http"))
		c.left(t, a)
		a = b
	}
}

// staticPort is the same of each version of a job: the next begins when the last has ended, and a canary has no place.
func (c *cluster) staticPort(t *testing.T) {
	for _, network := range []string{"host", "lan", "office", "front"} {
		text := job("static", "static = 21090\n to = 8080", "", "web", named(network), "")
		if network == "host" {
			text = job("static", "static = 21090", "", "web", named(network), "")
		}
		c.run(t, text, "running")
		serves(t, "static", hostAddr4+":21090")
		c.run(t, with(text, "driver = \"freejail\"", "env {\n VERSION = \"two\"\n}"), "running")
		await(t, "version two", func() error {
			out, err := here("fetch", "http://"+hostAddr4+":21090/")
			if err == nil {
				err = contains(out, "static two")
			}
			return err
		})
	}
	canary := job("static", "static = 21090\n to = 8080", "update {\n canary = 1\n }", "web", named("lan"), "")
	j, err := c.nomad.Client.Jobs().ParseHCL(canary, true)
	check(t, err)
	plan, _, err := c.nomad.Client.Jobs().Plan(j, false, nil)
	check(t, err)
	if failed := plan.FailedTGAllocs["group"]; failed == nil || len(failed.DimensionExhausted) == 0 {
		t.Errorf("a canary on the same host: %+v", plan.FailedTGAllocs)
	}
}

func (c *cluster) systemJob(t *testing.T) {
	text := with(job("system", "to = 8080", "", "web", named("lan"), ""), "datacenters = [\"*\"]", "type = \"system\"")
	i := strings.Index(text, "reschedule")
	text = text[:i] + text[i+strings.Index(text[i:], "}")+1:]
	a := c.run(t, text, "running")
	serves(t, "system", hostPort(t, a, "http"))
}

// exampleJob is the one of the source, twice on this host.
func (c *cluster) exampleJob(t *testing.T) {
	text, err := os.ReadFile("../../example/jobs/network.nomad.hcl")
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("the example is not here")
	}
	check(t, err)
	c.run(t, string(text), "running")
	var places []string
	await(t, "both allocations", func() error {
		places = nil
		list, _, err := c.nomad.Client.Jobs().Allocations("web-lan", false, nil)
		for _, stub := range list {
			if a, _, err := c.nomad.Client.Allocations().Info(stub.ID, nil); err == nil && a.ClientStatus == "running" {
				places = append(places, hostPort(t, a, "http"))
			}
		}
		if len(places) != 2 {
			err = errors.Join(err, fmt.Errorf("running: %q", places))
		}
		return err
	})
	for _, place := range places {
		serves(t, "web-lan", place)
	}
}

// batchAlone is a periodic batch job, whose program ends.
func (c *cluster) batchAlone(t *testing.T) {
	text := group("batch", "", part("work", "plain", named("none")+"\n args = [\"true\"]", ""))
	text = with(text, "datacenters = [\"*\"]", "type = \"batch\"\n periodic {\n cron = \"0 0 1 1 *\"\n }")
	j, err := c.nomad.Client.Jobs().ParseHCL(text, true)
	check(t, err)
	_, _, err = c.nomad.Client.Jobs().Register(j, nil)
	check(t, err)
	defer func() {
		_, _, err := c.nomad.Client.Jobs().Deregister("batch", true, nil)
		check(t, err)
	}()
	_, _, err = c.nomad.Client.Jobs().PeriodicForce("batch", nil)
	check(t, err)
	await(t, "the batch to be done", func() error {
		list, _, err := c.nomad.Client.Allocations().List(nil)
		if slices.ContainsFunc(list, func(a *api.AllocationListStub) bool {
			return strings.HasPrefix(a.JobID, "batch/") && a.ClientStatus == "complete"
		}) {
			return nil
		}
		return errors.Join(err, errors.New("no allocation is complete"))
	})
}

// portsOfAGroup are a port of its own number, two that lead to one, and one at an address of IPv6.
func (c *cluster) portsOfAGroup(t *testing.T) {
	a := c.run(t, job("ports", "to = 8080\n }\n port \"again\" {\n to = 8080\n }\n port \"six\" {\n to = 8080\n"+
		" host_network = \"six\"\n }\n port \"same\" {\n to = -1", "", "web", named("lan")+everywhere+
		"\n ports = [\"http\", \"again\", \"six\", \"same\"]", ""), "running")
	for _, label := range []string{"http", "again", "six"} {
		serves(t, "ports", hostPort(t, a, label))
	}
	for _, p := range c.taskOf(t, a, "web").Ports {
		if p.Name == "same" && p.To != p.Port {
			t.Errorf("%+v", p)
		}
	}
}

// namesOfAGroup are the host name and the servers for names.
func (c *cluster) namesOfAGroup(t *testing.T) {
	a := c.run(t, group("names", "dns {\n servers = [\"192.0.2.53\"]\n }",
		part("web", "plain", named("lan")+"\n hostname = \"of-the-task\"", "")), "running")
	for file, want := range map[string]string{"/etc/hosts": "of-the-task", "/etc/resolv.conf": "192.0.2.53"} {
		if out, err := c.exec(t, a, "web", "cat", file); err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %q %v", file, out, err)
		}
	}
	b := c.run(t, group("both", "dns {\n servers = [\"192.0.2.53\"]\n }", part("web", "plain",
		"dns {\n servers = [\"192.0.2.54\"]\n }", "")), "failed")
	if said := events(b.TaskStates); !strings.Contains(said, "dns is given by both") {
		t.Error(said)
	}
}
