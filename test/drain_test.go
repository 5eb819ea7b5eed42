package test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testcluster"
	"github.com/freejail/freejail/internal/testimage"
)

// secondNode joins a cluster as another client, with a daemon and a Consul agent of its own: Nomad's
// clients take out of theirs what other clients have there.
func (c *cluster) secondNode(t *testing.T) *cluster {
	t.Helper()
	second := &cluster{dir: tempDir(t), nomad: c.nomad}
	second.daemon = client.New(second.path("sock"))
	var err error
	second.consulAgent, err = c.consulAgent.Joining("second", second.path("consul"), second.path("consul.log"))
	check(t, err)
	second.write(t, "freejail.hcl", second.host()+policy)
	check(t, second.consulAgent.Start(t.Context()))
	second.nomadAgent, err = testcluster.NewNomad(testcluster.Config{Name: "second", Bin: program(t, "NOMAD_BIN"),
		Freejail: program(t, "FREEJAIL_BIN"), Dir: second.dir, Log: second.path("nomad.log"),
		Consul: second.consulAgent.Addr, Plugin: fmt.Sprintf("socket = %q\nconfig = %q\nlog_file = %q\n%s",
			second.path("sock"), second.path("freejail.hcl"), second.path("daemon.log"), withoutLogs),
		More: fmt.Sprintf("client {\n servers = [%q]\n min_dynamic_port = 27000\n options = { %s }\n}\n",
			c.nomadAgent.RPC, `"driver.allowlist" = "freejail"`),
		Prepare: c.ownTemp})
	check(t, err)
	second.nomadAgent.Client = c.nomad // the server's
	t.Cleanup(func() {
		if err := second.nomadAgent.End(syscall.SIGINT); err != nil {
			t.Error(err)
		}
		second.stopDaemon(t, syscall.SIGTERM)
		if err := second.consulAgent.End(syscall.SIGINT); err != nil {
			t.Error(err)
		}
	})
	check(t, second.nomadAgent.Start(t.Context()))
	return second
}

// withoutLogs is of the plugin: so many of Nomad's own log processes at once start too late for it on a slow host.
const withoutLogs = "disable_log_collection = true\n"

// TestDrain drains the node of groups under load: no request fails, whoever has their services registered.
func TestDrain(t *testing.T) {
	c := startClusterOf(t, program(t, "NOMAD_BIN"), func(cfg *testcluster.Config) {
		cfg.More += "client {\n max_dynamic_port = 26999\n}\n"
		cfg.Plugin += "\n" + withoutLogs
	})
	nodes := []*cluster{c, c.secondNode(t)}
	for _, n := range nodes {
		n.imports(t, "probe", testimage.Spec{Manifest: manifest})
		n.configurable(t)("permit {\n services = [\"block:test\"]\n}\n")
	}
	parts := map[string]struct {
		set  func(*nomad.Task)
		find func() ([]string, error)
	}{
		"image": {func(task *nomad.Task) {
			task.Config["services"] = []map[string]any{{"shutdown_delay": "2s"}}
		}, c.inConsul("probe")},
		"block": {func(task *nomad.Task) { // by the name that the image's has
			task.Config["services"] = []map[string]any{{"port": []map[string]any{{"name": "http", "service": "block"}}}}
			task.ShutdownDelay, task.Services = 2*time.Second, []*nomad.Service{webService("block", "consul")}
		}, c.inConsul("block")},
		"nomad": {func(task *nomad.Task) {
			task.Config["services"] = []map[string]any{{"disabled": true}}
			task.ShutdownDelay, task.Services = 2*time.Second, []*nomad.Service{webService("web", "nomad")}
		}, c.inNomad("web")},
	}
	// A busy server can stop one more than max_parallel: its drainer counts what it has only marked.
	const count = 3
	ids := c.onFirst(t, nodes)
	loads := map[string]*clients{}
	for name, part := range parts {
		j, task := job("drained-"+name, "serve")
		withPort(j, task)
		j.TaskGroups[0].Count = ptr(count)
		j.TaskGroups[0].Migrate = nomad.DefaultMigrateStrategy()
		part.set(task)
		c.run(t, j)
		await(t, "all of "+name+" to be found", func() error {
			at, err := part.find()
			if len(at) != count {
				err = errors.Join(err, fmt.Errorf("there are %q", at))
			}
			return err
		})
		loads[name] = startLoad(part.find)
	}
	c.eligible(t, ids[1], true)
	_, err := c.nomad.Nodes().UpdateDrain(ids[0], &nomad.DrainSpec{Deadline: 2 * time.Minute}, false, nil)
	check(t, err)
	for name, l := range loads {
		c.awaitMoved(t, "drained-"+name, ids[1], count)
		served, failed := l.end()
		if len(failed) > 0 || served == 0 {
			t.Errorf("%s: of %d requests %d failed, first %q; it was at %q", name, served+len(failed), len(failed),
				failed[:min(3, len(failed))], l.told)
		}
		t.Logf("%s: %d requests", name, served)
	}
}

// webService is a block of a job with a check.
func webService(name, provider string) *nomad.Service {
	return &nomad.Service{Name: name, Tags: []string{"test"}, PortLabel: "http", Provider: provider,
		Checks: []nomad.ServiceCheck{{Type: "http", Path: "/health", Interval: time.Second, Timeout: 5 * time.Second}}}
}

// onFirst has tasks placed on the first of some nodes alone, and tells the ids of all.
func (c *cluster) onFirst(t *testing.T, nodes []*cluster) (ids []string) {
	t.Helper()
	for i, n := range nodes {
		node, err := n.nomadAgent.Node()
		check(t, err)
		c.eligible(t, node.ID, i == 0)
		ids = append(ids, node.ID)
	}
	return ids
}

func (c *cluster) awaitMoved(t *testing.T, job, node string, count int) {
	t.Helper()
	await(t, "the tasks of "+job+" to have moved", func() error {
		list, _, err := c.nomad.Jobs().Allocations(job, true, nil)
		moved := 0
		for _, a := range list {
			if a.NodeID == node && a.ClientStatus == "running" {
				moved++
			} else if a.ClientStatus != "complete" {
				err = errors.Join(err, fmt.Errorf("an allocation on %s is %s", a.NodeName, a.ClientStatus))
			}
		}
		if moved != count {
			err = errors.Join(err, fmt.Errorf("%d have moved", moved))
		}
		return err
	})
}

func (c *cluster) eligible(t *testing.T, node string, is bool) {
	t.Helper()
	_, err := c.nomad.Nodes().ToggleEligibility(node, is, nil)
	check(t, err)
}

// inConsul are the healthy addresses of a service.
func (c *cluster) inConsul(name string) func() ([]string, error) {
	return func() (at []string, err error) {
		found, _, err := c.consul.Health().Service(name, "test", true, &consul.QueryOptions{RequireConsistent: true})
		for _, s := range found {
			at = append(at, net.JoinHostPort(s.Service.Address, strconv.Itoa(s.Service.Port)))
		}
		return at, err
	}
}

// inNomad are all of one: that list has nothing of checks.
func (c *cluster) inNomad(name string) func() ([]string, error) {
	return func() (at []string, err error) {
		found, _, err := c.nomad.Services().Get(name, nil)
		for _, s := range found {
			at = append(at, net.JoinHostPort(s.Address, strconv.Itoa(s.Port)))
		}
		return at, err
	}
}

// clients are told twice a second where a service is, and request pages there, as a proxy does.
type clients struct {
	stop chan struct{}
	wait sync.WaitGroup

	mu     sync.Mutex
	up     map[string]bool // it has answered once: what is only registered may be starting
	served int
	failed []string
	at     []string // where it was last
	told   []string // each change of that
}

// busy is how many times longer than a request took a client waits after it: a slow host is loaded, and not held up.
const busy = 20

func startLoad(find func() ([]string, error)) *clients {
	l := &clients{stop: make(chan struct{}), up: map[string]bool{}}
	l.ask(find)
	l.wait.Go(func() {
		for l.pause(500 * time.Millisecond) {
			l.ask(find)
		}
	})
	for range 4 {
		l.wait.Go(func() {
			for took := time.Duration(0); l.pause(10*time.Millisecond + busy*took); {
				begun := time.Now()
				l.request()
				took = time.Since(begun)
			}
		})
	}
	return l
}

// pause tells whether the clients go on after it.
func (l *clients) pause(d time.Duration) bool {
	select {
	case <-l.stop:
		return false
	case <-time.After(d):
		return true
	}
}

func (l *clients) ask(find func() ([]string, error)) {
	at, err := find()
	if err != nil {
		l.note("", err)
	}
	slices.Sort(at)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(at, l.at) {
		l.at, l.told = at, append(l.told, fmt.Sprintf("%s %q", time.Now().Format("05.000"), at))
	}
}

func (l *clients) request() {
	l.mu.Lock()
	at := l.at
	l.mu.Unlock()
	if len(at) == 0 {
		l.note("", errors.New("nothing serves it"))
		return
	}
	addr := at[rand.IntN(len(at))]
	l.note(addr, getPage("http://"+addr+"/page"))
}

func (l *clients) note(addr string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.served++
		l.up[addr] = true
	case addr == "" || l.up[addr]:
		l.failed = append(l.failed, time.Now().Format(time.TimeOnly)+" "+err.Error())
	}
}

func (l *clients) end() (served int, failed []string) {
	close(l.stop)
	l.wait.Wait()
	return l.served, l.failed
}

// anew makes a connection for each request: none is lost with one that was kept.
var anew = http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func getPage(url string) error {
	resp, err := anew.Get(url)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(resp.Body)
	if err == nil && !strings.HasPrefix(string(body), "hello") {
		err = fmt.Errorf("%s: %.60q", resp.Status, body)
	}
	return errors.Join(err, resp.Body.Close())
}
