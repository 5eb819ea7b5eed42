package catalog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
)

// agent is a real Consul agent in dev mode, which forgets all when it ends.
type agent struct {
	t      *testing.T
	addr   string
	ports  []int
	client *api.Client
	cmd    *exec.Cmd
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	if os.Getenv("CONSUL_BIN") == "" {
		t.Skip("CONSUL_BIN is not set; `make test` sets it")
	}
	a := &agent{t: t}
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer l.Close()
		a.ports = append(a.ports, l.Addr().(*net.TCPAddr).Port)
	}
	a.addr = fmt.Sprintf("127.0.0.1:%d", a.ports[0])
	var err error
	a.client, err = api.NewClient(&api.Config{Address: a.addr})
	must(t, err)
	t.Cleanup(a.end)
	return a
}

func (a *agent) start() {
	a.t.Helper()
	a.cmd = exec.Command(os.Getenv("CONSUL_BIN"), "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=err",
		fmt.Sprintf("-http-port=%d", a.ports[0]), fmt.Sprintf("-serf-lan-port=%d", a.ports[1]), fmt.Sprintf("-server-port=%d", a.ports[2]),
		"-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-serf-wan-port=-1")
	must(a.t, a.cmd.Start())
	await(a.t, "Consul", func() error {
		leader, err := a.client.Status().Leader()
		if err == nil && leader == "" {
			err = errors.New("no leader")
		}
		return err
	})
}

func (a *agent) end() {
	if a.cmd == nil {
		return
	}
	if err := a.cmd.Process.Kill(); err != nil {
		a.t.Error(err)
	}
	_ = a.cmd.Wait() // killed
	a.cmd = nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, what string, ask func() error) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s: %v", what, err)
		}
	}
}

// told collects events.
type told struct {
	mu   sync.Mutex
	list []string
}

func (e *told) add(task, message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, task+": "+message)
}

func (e *told) await(t *testing.T, want string) {
	t.Helper()
	await(t, "an event with "+want, func() error {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, l := range e.list {
			if strings.Contains(l, want) {
				return nil
			}
		}
		return fmt.Errorf("events: %q", e.list)
	})
}

func open(t *testing.T, a *agent) (*Catalog, *told) {
	t.Helper()
	e := &told{}
	c, err := New(Config{Address: a.addr, Node: "this host"}, hclog.NewNullLogger(), e.add)
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	t.Cleanup(func() { stop(); <-done })
	return c, e
}

// awaitServices wants exactly these ids, and returns them.
func (a *agent) awaitServices(ids ...string) map[string]*api.AgentService {
	a.t.Helper()
	var have map[string]*api.AgentService
	await(a.t, fmt.Sprintf("the services %q", ids), func() (err error) {
		if have, err = a.client.Agent().Services(); err != nil {
			return err
		}
		for _, id := range ids {
			if have[id] == nil {
				err = errors.Join(err, fmt.Errorf("no %s", id))
			}
		}
		if len(have) != len(ids) {
			err = errors.Join(err, fmt.Errorf("there are %d", len(have)))
		}
		return err
	})
	return have
}

func service(port int) []Service {
	return []Service{{PortName: "http", Name: "web", Tags: []string{"a"}, Address: "127.0.0.1", Port: port, Meta: map[string]string{"image": "x"},
		Check: &Check{Type: "tcp", Interval: time.Second, Timeout: time.Second}}}
}

func TestServicesAreKeptTrue(t *testing.T) {
	a := newAgent(t)
	a.start()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	// Another host's entry, somebody's own, and one of ours that a daemon of before left.
	for id, node := range map[string]string{"theirs": "another host", "own": "", "stale": "this host"} {
		reg := &api.AgentServiceRegistration{ID: id, Name: id, Meta: map[string]string{metaNode: node}}
		must(t, a.client.Agent().ServiceRegister(reg))
	}
	c, _ := open(t, a)
	must(t, c.Ping(t.Context()))
	c.Set("one", service(l.Addr().(*net.TCPAddr).Port))
	s := a.awaitServices("theirs", "own", "freejail-one-http")["freejail-one-http"]
	if s.Service != "web" || s.Address != "127.0.0.1" || s.Meta["image"] != "x" || s.Meta[metaTask] != "one" || len(s.Tags) != 1 {
		t.Errorf("registered: %+v", s)
	}
	await(t, "its check to pass", func() error {
		list, _, err := a.client.Health().Service("web", "a", true, nil)
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("%d pass", len(list))
		}
		return err
	})
	if st := c.Status(); len(st) != 1 || !st[0].Registered || st[0].Error != "" || st[0].ID != "freejail-one-http" {
		t.Errorf("status: %+v", st)
	}
	must(t, a.client.Agent().ServiceDeregister("freejail-one-http")) // somebody's mistake
	a.awaitServices("theirs", "own", "freejail-one-http")
	c.Remove(t.Context(), "one")
	have, err := a.client.Agent().Services()
	must(t, err)
	if have["freejail-one-http"] != nil || len(have) != 2 {
		t.Errorf("after the removal: %v", have)
	}
	c.Remove(t.Context(), "one") // nothing there is no error
}

func TestConsulAway(t *testing.T) {
	a := newAgent(t)
	c, e := open(t, a)
	if err := c.Ping(t.Context()); err == nil {
		t.Error("nobody answered the ping")
	}
	c.Set("one", service(1))
	e.await(t, "one: Consul does not answer, registration is tried again")
	c.Set("two", service(2)) // it was away before this task
	e.await(t, "two: Consul does not answer, registration is tried again")
	for _, s := range c.Status() {
		if s.Registered || s.Error == "" {
			t.Errorf("status: %+v", s)
		}
	}
	a.start()
	a.awaitServices("freejail-one-http", "freejail-two-http")
	e.await(t, "one: Consul answers again")
	e.await(t, "two: Consul answers again")

	a.end() // and it forgets everything
	c.Remove(t.Context(), "two")
	e.await(t, "two: Consul does not answer; its services go as soon as it does")
	a.start()
	a.awaitServices("freejail-one-http")
}
