package networks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testagent"
	"github.com/freejail/freejail/internal/testcluster"
	"github.com/freejail/freejail/internal/testimage"
)

func init() {
	programs["web"] = web
	programs["true"] = func([]string) int { return 0 } // of a check by script
}

// web serves its job's name where freejail tells it to, or at all addresses.
func web(args []string) int {
	address := os.Getenv("FREEJAIL_ADDR_http")
	if len(args) > 0 {
		address = ""
	}
	go func() {
		err := http.ListenAndServe(net.JoinHostPort(address, os.Getenv("FREEJAIL_PORT_http")),
			http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintln(w, "job", os.Getenv("NOMAD_JOB_NAME"), os.Getenv("VERSION"))
			}))
		os.Exit(tell("", err))
	}()
	untilTold()
	return 0
}

// cluster is the host of these tests with an agent of Nomad, server and client in one, and one of
// Consul.
type cluster struct {
	*host
	nomad  *testcluster.Nomad
	consul *testagent.Consul
}

// Nomad's ports are at the uplink, unless they say otherwise.
const nomadConfig = `
server {
  enabled          = true
  bootstrap_expect = 1
}
client {
  network_interface = "` + uplink + `"
  options           = { "driver.allowlist" = "freejail" }
  host_network "inner" {
    cidr = "` + officeHost + `/32"
  }
  host_network "six" {
    cidr = "` + hostAddr6 + `/64"
  }
}
`

const webManifest = `{"schemaVersion":1,"ports":[{"name":"http","port":8080,"service":{"name":"image-web",` +
	`"check":{"type":"http","path":"/health","interval":"1s"}}}]}`

func newCluster(t *testing.T) *cluster {
	t.Helper()
	bins := map[string]string{}
	for _, name := range []string{"NOMAD_BIN", "CONSUL_BIN", "FREEJAIL_BIN"} {
		if bins[name] = os.Getenv(name); bins[name] == "" {
			t.Skipf("%s is not set; `make test` sets it", name)
		}
	}
	c := &cluster{host: newHost(t)}
	path := func(name string) string { return filepath.Join(c.dir, name) }
	var err error
	c.consul, err = testagent.NewConsul(bins["CONSUL_BIN"], path("consul.log"))
	check(t, err)
	c.restartWith(t, fmt.Sprintf("consul {\n  address = %q\n  advertise = %q\n}\npermit {\n  services = [\"*\"]\n}\n",
		c.consul.Addr, hostAddr4))
	c.load(t, testimage.Spec{Name: "web", Cmd: []string{"web"}, Manifest: webManifest})
	c.load(t, testimage.Spec{Name: "plain", Cmd: []string{"idle"}})
	c.nomad, err = testcluster.NewNomad(testcluster.Config{Bin: bins["NOMAD_BIN"], Freejail: bins["FREEJAIL_BIN"],
		Dir: c.dir, Log: path("nomad.log"), Consul: c.consul.Addr, More: nomadConfig,
		Plugin: fmt.Sprintf("socket = %q\nautostart = false", c.Socket()),
		// Where killed plugins leave their sockets.
		Prepare: func(cmd *exec.Cmd) { cmd.Env = append(os.Environ(), "TMPDIR="+path("t")) }})
	check(t, errors.Join(err, os.Mkdir(path("t"), 0o700)))
	t.Cleanup(func() {
		if err := errors.Join(c.nomad.End(syscall.SIGINT), c.consul.End(syscall.SIGINT)); err != nil {
			t.Error(err)
		}
	})
	check(t, c.consul.Start(t.Context()))
	check(t, c.nomad.Start(t.Context()))
	return c
}

// restartWith has another daemon, with more in its configuration.
func (h *host) restartWith(t *testing.T, more string) {
	t.Helper()
	text, err := os.ReadFile(h.config)
	check(t, err)
	check(t, os.WriteFile(h.config, append(text, more...), 0o600))
	check(t, errors.Join(h.cmd.Process.Signal(syscall.SIGTERM), <-h.gone))
	h.start(t)
}

// job is one of a task of an image, with more in its group, its task and the task's config.
func job(name, port, group, image, config, task string) string {
	return fmt.Sprintf(`
job %q {
  datacenters = ["*"]
  group "group" {
    network {
      port "http" {
        %s
      }
    }
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    %s
    task "web" {
      driver = "freejail"
      config {
        image = %q
        %s
      }
      resources {
        cpu    = 50
        memory = 64
      }
      %s
    }
  }
}
`, name, port, group, image, config, task)
}

// run registers a job, and waits until an allocation of its newest version has a status. It ends with the test.
func (c *cluster) run(t *testing.T, text, status string) *api.Allocation {
	t.Helper()
	j, err := c.nomad.Client.Jobs().ParseHCL(text, true)
	check(t, err)
	reg, _, err := c.nomad.Client.Jobs().Register(j, nil)
	check(t, err)
	t.Cleanup(func() { check(t, c.nomad.PurgeJob(context.Background(), *j.ID)) })
	var found *api.Allocation
	await(t, *j.ID+" to be "+status, func() error {
		list, _, err := c.nomad.Client.Jobs().Allocations(*j.ID, true, nil)
		if err != nil {
			return err
		}
		var seen []string
		for _, a := range list {
			seen = append(seen, a.ClientStatus+" "+events(a.TaskStates))
			if a.ClientStatus == status && a.CreateIndex >= reg.JobModifyIndex {
				found, _, err = c.nomad.Client.Allocations().Info(a.ID, nil)
				return err
			}
		}
		err = fmt.Errorf("seen: %q", seen)
		if len(list) == 1 && list[0].ClientStatus == "failed" {
			t.Fatal(err)
		}
		return err
	})
	return found
}

func events(states map[string]*api.TaskState) string {
	var out []string
	for _, s := range states {
		for _, e := range s.Events {
			out = append(out, e.DisplayMessage)
		}
	}
	return strings.Join(out, "\n")
}

// taskOf is what the daemon knows of an allocation's task that runs.
func (c *cluster) taskOf(t *testing.T, a *api.Allocation, name string) client.Task {
	t.Helper()
	var found client.Task
	await(t, "task "+name, func() error {
		list, err := c.Tasks(t.Context())
		for _, task := range list {
			l := task.Spec.Labels
			if l["alloc_id"] == a.ID && l["task"] == name && task.State == client.Running {
				found = task
				return nil
			}
		}
		return fmt.Errorf("tasks %+v: %w", list, err)
	})
	return found
}

// hostPort is where on the host Nomad has a port of an allocation.
func hostPort(t *testing.T, a *api.Allocation, label string) string {
	t.Helper()
	for _, p := range a.AllocatedResources.Shared.Ports {
		if p.Label == label {
			return net.JoinHostPort(p.HostIP, strconv.Itoa(p.Value))
		}
	}
	t.Fatalf("there is no port %s", label)
	return ""
}

// inConsul waits until services of a name have one place, and pass their checks.
func (c *cluster) inConsul(t *testing.T, name, want string) {
	t.Helper()
	await(t, "service "+name+" at "+want, func() error {
		list, _, err := c.consul.Client.Health().Service(name, "", false, nil)
		if err != nil {
			return err
		}
		var seen []string
		for _, s := range list {
			at := net.JoinHostPort(s.Service.Address, strconv.Itoa(s.Service.Port))
			seen = append(seen, at+" is "+s.Checks.AggregatedStatus())
			for _, k := range s.Checks {
				seen = append(seen, k.Output)
			}
			if len(list) == 1 && at == want && s.Checks.AggregatedStatus() == "passing" {
				return nil
			}
		}
		return fmt.Errorf("seen: %q", seen)
	})
}

// inNomad waits until a service of Nomad's own has one place.
func (c *cluster) inNomad(t *testing.T, name, want string) {
	t.Helper()
	await(t, "Nomad's service "+name+" at "+want, func() error {
		list, _, err := c.nomad.Client.Services().Get(name, nil)
		if err != nil || len(list) != 1 {
			return fmt.Errorf("there are %d: %w", len(list), err)
		}
		if at := net.JoinHostPort(list[0].Address, strconv.Itoa(list[0].Port)); at != want {
			return fmt.Errorf("it is at %s", at)
		}
		return nil
	})
}

// serves wants an answer of a job at an address, here and outside.
func serves(t *testing.T, name, address string) {
	t.Helper()
	for where, from := range map[string]func(...string) (string, error){"the host": here, "outside": outside} {
		await(t, name+" at "+address+" from "+where, func() error {
			out, err := from("fetch", "http://"+address+"/")
			if err == nil {
				err = contains(out, "job "+name)
			}
			return err
		})
	}
}

// modes are the networks whose tasks Nomad's services can lead to, and whether these show the task's
// own address.
var modes = []struct {
	name, network string
	own           bool
}{{"host", "host", false}, {"nat", "lan", false}, {"bridged", "office", true}, {"alias", "front", true}}

// TestNomad has jobs of a real agent in networks of each mode, and what Consul and Nomad say of where they are.
func TestNomad(t *testing.T) {
	c := newCluster(t)
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Run("Consul", func(t *testing.T) { c.servicesInConsul(t, m.name, m.network, m.own) })
			t.Run("Nomad", func(t *testing.T) { c.servicesInNomad(t, m.name, m.network, m.own) })
			t.Run("image", func(t *testing.T) { c.serviceOfTheImage(t, m.name, m.network, m.own) })
		})
	}
	t.Run("fingerprint", c.tellsNetworks)
	t.Run("keeps", c.keeps)
	t.Run("group", c.sharesAStack)
	t.Run("places", c.publishes)
	t.Run("neighbours", c.leadsNeighbours)
	t.Run("none", c.loopbackAlone)
	t.Run("modes of Nomad's", c.modesOfNomads)
	t.Run("refusals", c.refuses)
}

func named(network string) string { return fmt.Sprintf("network = %q", network) }

// servicesInConsul are those of a task in each address_mode, and of its group, with a check of each kind.
func (c *cluster) servicesInConsul(t *testing.T, mode, network string, own bool) {
	name := "consul-" + mode
	kinds := []string{"type = \"http\"\n path = \"/health\"", "type = \"tcp\"",
		"type = \"script\"\n command = \"" + testimage.Program + "\"\n args = [\"true\"]\n task = \"web\""}
	service := func(name, mode string) string {
		checks := ""
		for i, kind := range kinds {
			checks += fmt.Sprintf("check {\n name = \"%s %d\"\n %s\n interval = \"1s\"\n timeout = \"2s\"\n }\n", name, i,
				kind)
		}
		return fmt.Sprintf("service {\n name = %q\n port = \"http\"\n address_mode = %q\n %s}\n", name, mode, checks)
	}
	task := service(name+"-auto", "auto") + service(name+"-host", "host")
	if network != "host" {
		task += service(name+"-driver", "driver")
	}
	a := c.run(t, job(name, "to = 8080", service(name+"-group", "auto"), "web", named(network), task), "running")
	onHost, auto, driver := hostPort(t, a, "http"), "", ""
	if auto = onHost; network != "host" {
		driver = at(c.taskOf(t, a, "web").Network.Address(), "8080")
	}
	if own {
		auto = driver
	}
	c.inConsul(t, name+"-host", onHost)
	c.inConsul(t, name+"-group", onHost)
	c.inConsul(t, name+"-auto", auto)
	serves(t, name, auto)
	serves(t, name, onHost)
	if driver != "" {
		c.inConsul(t, name+"-driver", driver)
	}
}

// servicesInNomad are those with Nomad's own catalog, whose checks go to the host's address.
func (c *cluster) servicesInNomad(t *testing.T, mode, network string, own bool) {
	name := "nomad-" + mode
	service := func(name, mode, more string) string {
		return fmt.Sprintf("service {\n provider = \"nomad\"\n name = %q\n port = \"http\"\n address_mode = %q\n%s}\n",
			name, mode, more)
	}
	checked := ""
	for i, kind := range []string{"type = \"http\"\n path = \"/health\"", "type = \"tcp\""} {
		checked += fmt.Sprintf("check {\n name = \"kind %d\"\n %s\n interval = \"1s\"\n timeout = \"2s\"\n}\n", i, kind)
	}
	task := service(name+"-auto", "auto", checked) + service(name+"-host", "host", "")
	if network != "host" {
		task += service(name+"-driver", "driver", "")
	}
	group := service(name+"-group", "auto", checked)
	a := c.run(t, job(name, "to = 8080", group, "web", named(network), task), "running")
	onHost := hostPort(t, a, "http")
	auto := onHost
	if network != "host" {
		driver := at(c.taskOf(t, a, "web").Network.Address(), "8080")
		c.inNomad(t, name+"-driver", driver)
		if own {
			auto = driver
		}
	}
	c.inNomad(t, name+"-auto", auto)
	c.inNomad(t, name+"-host", onHost)
	c.inNomad(t, name+"-group", onHost)
	serves(t, name, auto)
	serves(t, name, onHost)
	await(t, "Nomad's checks to pass", func() error {
		all, err := c.nomad.Client.Allocations().Checks(a.ID, nil)
		for _, k := range all {
			if k.Status != "success" {
				err = errors.Join(err, fmt.Errorf("%+v", k))
			}
		}
		if len(all) != 4 {
			err = errors.Join(err, fmt.Errorf("there are %d", len(all)))
		}
		return err
	})
}

// serviceOfTheImage is registered by the daemon, where others than the host reach it.
func (c *cluster) serviceOfTheImage(t *testing.T, mode, network string, own bool) {
	name := "image-" + mode
	a := c.run(t, job(name, "to = 8080", "", "web", named(network), ""), "running")
	place := hostPort(t, a, "http")
	if own {
		place = at(c.taskOf(t, a, "web").Network.Address(), "8080")
	}
	c.inConsul(t, "image-web", place)
	serves(t, name, place)
}

func (c *cluster) tellsNetworks(t *testing.T) {
	await(t, "the node's networks", func() error {
		node, err := c.nomad.Node()
		if err != nil {
			return err
		}
		for name, mode := range map[string]string{"lan": "nat", "office": "bridged", "front": "alias", "none": "none"} {
			if got := node.Attributes["driver.freejail.network."+name]; got != mode {
				err = errors.Join(err, fmt.Errorf("%s is %q", name, got))
			}
		}
		return err
	})
	constraint := "constraint {\n attribute = \"${attr.driver.freejail.network.lan}\"\n value = \"nat\"\n}\n"
	c.run(t, job("constrained", "", constraint, "web", named("lan"), ""), "running")
}

// keeps has tasks live through a restart of theirs, another version, and restarts of the client and of the daemon.
func (c *cluster) keeps(t *testing.T) {
	texts, allocs := map[string]string{}, map[string]*api.Allocation{}
	for _, network := range []string{"lan", "office", "front"} {
		service := fmt.Sprintf("service {\n name = %q\n port = \"http\"\n check {\n type = \"http\"\n path = \"/\"\n"+
			" interval = \"1s\"\n timeout = \"2s\"\n %s\n }\n}\n", "kept-"+network,
			map[bool]string{true: "address_mode = \"driver\""}[network != "lan"])
		texts[network] = job("kept-"+network, "to = 8080", "", "web", named(network), service)
		allocs[network] = c.run(t, texts[network], "running")
	}
	where := func(network string) string {
		if network == "lan" {
			return hostPort(t, allocs[network], "http")
		}
		return at(c.taskOf(t, allocs[network], "web").Network.Address(), "8080")
	}
	reached := func() {
		t.Helper()
		for network := range texts {
			c.inConsul(t, "kept-"+network, where(network))
			serves(t, "kept-"+network, where(network))
		}
	}
	reached()
	for network, a := range allocs {
		before := c.taskOf(t, a, "web")
		check(t, c.nomad.Client.Allocations().Restart(a, "web", nil))
		await(t, network+" to be another task", func() error {
			if now := c.taskOf(t, a, "web"); now.Spec.ID == before.Spec.ID {
				return errors.New("it is the same")
			}
			return nil
		})
	}
	reached()
	for network, text := range texts {
		text = strings.Replace(text, "driver = \"freejail\"", "driver = \"freejail\"\n env {\n VERSION = \"two\"\n}", 1)
		allocs[network] = c.run(t, text, "running")
	}
	reached()
	before := map[string]client.Task{}
	for network, a := range allocs {
		before[network] = c.taskOf(t, a, "web")
	}
	same := func(what string) {
		t.Helper()
		for network, a := range allocs {
			now := c.taskOf(t, a, "web")
			if now.PID != before[network].PID || *now.Network != *before[network].Network {
				t.Errorf("%s: the task of %s was %d, %+v, and is %d, %+v", what, network, before[network].PID,
					before[network].Network, now.PID, now.Network)
			}
		}
		reached()
	}
	check(t, c.nomad.End(syscall.SIGINT))
	check(t, c.nomad.Start(t.Context()))
	same("a restart of Nomad's client")
	c.kill(t)
	c.start(t)
	same("a crash of the daemon")
}

// everywhere has the web listen at all addresses.
const everywhere = "\n args = [\"web\", \"everywhere\"]"

// exec runs a program of the test binary in a task of an allocation, by Nomad.
func (c *cluster) exec(t *testing.T, a *api.Allocation, task string, args ...string) (string, error) {
	t.Helper()
	info := c.taskOf(t, a, task)
	return c.in(t, &info, args...)
}

// sharesAStack has a sidecar reach its neighbour on localhost, and nothing else that shares with it.
func (c *cluster) sharesAStack(t *testing.T) {
	side := func(name, more string) string {
		return fmt.Sprintf("task %q {\n driver = \"freejail\"\n config {\n image = \"plain\"\n network = \"lan\"\n"+
			" ports = []\n %s\n }\n resources {\n cpu = 50\n memory = 32\n }\n}\n", name, more)
	}
	same := strings.Replace(side("same", `share = "group"`), `"plain"`, `"web"`, 1)
	same = strings.Replace(same, "ports = []", "ports = []\n args = [\"idle\"]", 1)
	a := c.run(t, job("shared", "to = 8080", side("side", `share = "group"`)+side("apart", "")+same, "web",
		named("lan")+everywhere+"\n share = \"group\"", ""), "running")
	serves(t, "shared", hostPort(t, a, "http"))
	web := c.taskOf(t, a, "web").Network
	if near := c.taskOf(t, a, "side").Network; *near != *web {
		t.Errorf("the sidecar has %+v, its neighbour %+v", near, web)
	}
	if far := c.taskOf(t, a, "apart").Network; far.Addr4 == web.Addr4 {
		t.Errorf("a task that does not share has %+v", far)
	}
	out, err := c.exec(t, a, "side", "fetch", "http://localhost:8080/")
	if err != nil || !strings.Contains(out, "job shared") {
		t.Errorf("the neighbour on localhost: %q %v", out, err)
	}
	if out, err := c.exec(t, a, "apart", "fetch", "http://localhost:8080/"); err == nil {
		t.Errorf("a task that does not share reaches it on localhost: %q", out)
	}
}

// publishes has ports at another address of the host's, and those of the job's own key.
func (c *cluster) publishes(t *testing.T) {
	port := fmt.Sprintf("to = 8080\n}\nport \"inner\" {\n to = 8080\n host_network = \"inner\"\n}\nport \"spare\" {\n" +
		"static = 21080")
	a := c.run(t, job("places", port, "", "web", named("lan")+everywhere+
		"\n publish = [\"21081:8080\", \"["+hostAddr6+"]:21082:8080\"]\n address = [\"10.188.0.77\"]\n"+
		" ports = [\"http\", \"inner\"]", ""), "running")
	if got := c.taskOf(t, a, "web").Network.Addr4.String(); got != "10.188.0.77" {
		t.Errorf("the task's address is %s", got)
	}
	if inner := hostPort(t, a, "inner"); !strings.HasPrefix(inner, officeHost+":") {
		t.Errorf("the port is at %s", inner)
	}
	for _, place := range []string{hostPort(t, a, "http"), hostPort(t, a, "inner"), hostAddr4 + ":21081",
		"[" + hostAddr6 + "]:21081", "[" + hostAddr6 + "]:21082"} {
		serves(t, "places", place)
	}
	unreached(t, "a published port at another address")(outside("fetch", "http://"+hostAddr4+":21082/"))
}

// leadsNeighbours has tasks of each network reach the ports of the host that Nomad chose for those of others.
func (c *cluster) leadsNeighbours(t *testing.T) {
	allocs := map[string]*api.Allocation{}
	for _, network := range []string{"lan", "office", "front"} {
		allocs[network] = c.run(t, job("led-"+network, "to = 8080", "", "web", named(network), ""), "running")
	}
	for of, a := range allocs {
		for from, asking := range allocs {
			out, err := c.exec(t, asking, "web", "fetch", "http://"+hostPort(t, a, "http")+"/")
			if err != nil || !strings.Contains(out, "job led-"+of) {
				t.Errorf("a task of %s at the host's port of one of %s: %q %v", from, of, out, err)
			}
		}
	}
}

func (c *cluster) loopbackAlone(t *testing.T) {
	a := c.run(t, job("alone", "", "", "web", named("none")+"\n ports = []", ""), "running")
	if n := c.taskOf(t, a, "web").Network; n.Mode != "none" || n.Address().IsValid() {
		t.Errorf("it has %+v", n)
	}
	if out, err := c.exec(t, a, "web", "fetch", "http://"+c.nomad.Addr+"/v1/agent/health"); err == nil {
		t.Errorf("it reaches the host: %q", out)
	}
}

// modesOfNomads are those of a group's network block, which no driver is told. FreeBSD's clients do nothing for "none",
// so that the task has the network of its config, and have no "bridge"; those of Linux refuse "none".
func (c *cluster) modesOfNomads(t *testing.T) {
	block := regexp.MustCompile(`(?s)network \{.*?\n    \}\n`)
	with := func(mode, config string) string {
		return block.ReplaceAllLiteralString(job("mode-"+mode, "", "", "web", config, ""),
			fmt.Sprintf("network {\n mode = %q\n}\n", mode))
	}
	if runtime.GOOS != "freebsd" {
		a := c.run(t, with("none", named("lan")), "failed")
		if want := `task web does not support "none" networking mode`; !strings.Contains(a.ClientDescription, want) {
			t.Errorf("no %q in %q", want, a.ClientDescription)
		}
		return
	}
	n := c.taskOf(t, c.run(t, with("none", named("lan")), "running"), "web").Network
	if n.Name != "lan" || !n.Addr4.IsValid() {
		t.Fatalf("it has %+v", n)
	}
	await(t, "it at its own address", func() error {
		out, err := here("fetch", "http://"+net.JoinHostPort(n.Addr4.String(), "8080")+"/")
		if err == nil {
			err = contains(out, "job mode-none")
		}
		return err
	})
	c.isNotPlaced(t, with("bridge", named("lan")))
}

// isNotPlaced has Nomad's scheduler find no node for a job: none has the network, or the plugin of CNI that newer ones
// ask for.
func (c *cluster) isNotPlaced(t *testing.T, text string) {
	t.Helper()
	j, err := c.nomad.Client.Jobs().ParseHCL(text, true)
	check(t, err)
	reg, _, err := c.nomad.Client.Jobs().Register(j, nil)
	check(t, err)
	t.Cleanup(func() {
		_, _, err := c.nomad.Client.Jobs().Deregister(*j.ID, true, nil)
		check(t, err)
	})
	await(t, *j.ID+" to find no node", func() error {
		e, _, err := c.nomad.Client.Evaluations().Info(reg.EvalID, nil)
		if err != nil {
			return err
		}
		if m := e.FailedTGAllocs["group"]; e.Status != "complete" || m == nil || m.NodesFiltered != 1 {
			return fmt.Errorf("it is %s: %+v", e.Status, m)
		}
		return nil
	})
}

// refuses has the task's owner told what to change.
func (c *cluster) refuses(t *testing.T) {
	for name, k := range map[string]struct{ port, config, want string }{
		"to":      {"", named("office"), "port \"http\" of the group's network block needs to"},
		"unknown": {"", named("bridge"), "it has: host, none, lan"},
		"share":   {"", named("host") + "\n share = \"group\"", "needs a network with a stack of its own"},
		"address": {"", named("lan") + "\n address = [\"192.0.2.1\"]", "192.0.2.1"},
		"publish": {"to = 8080", named("office") + "\n publish = [\"8081:8080\"]", "office"},
	} {
		t.Run(name, func(t *testing.T) {
			a := c.run(t, job("refused-"+name, k.port, "", "web", k.config, ""), "failed")
			if said := events(a.TaskStates); !strings.Contains(said, k.want) {
				t.Errorf("no %q in %s", k.want, said)
			}
		})
	}
}
