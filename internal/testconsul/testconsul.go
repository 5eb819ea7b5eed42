// Package testconsul runs a real Consul agent for tests.
package testconsul

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// Agent is a Consul agent in dev mode, which forgets all when it ends. It has
// its address before it is started, and keeps it.
type Agent struct {
	Addr   string // host:port of the HTTP API
	Client *api.Client
	t      *testing.T
	ports  []int
	cmd    *exec.Cmd
}

// New prepares an agent; the test is skipped where CONSUL_BIN names none.
func New(t *testing.T) *Agent {
	t.Helper()
	if os.Getenv("CONSUL_BIN") == "" {
		t.Skip("CONSUL_BIN is not set; `make test` sets it")
	}
	a := &Agent{t: t}
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		a.ports = append(a.ports, l.Addr().(*net.TCPAddr).Port)
	}
	a.Addr = fmt.Sprintf("127.0.0.1:%d", a.ports[0])
	var err error
	if a.Client, err = api.NewClient(&api.Config{Address: a.Addr}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.End)
	return a
}

// Start returns when the agent leads its cluster of one.
func (a *Agent) Start() {
	a.t.Helper()
	a.cmd = exec.Command(os.Getenv("CONSUL_BIN"), "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", "-log-level=err",
		fmt.Sprintf("-http-port=%d", a.ports[0]), fmt.Sprintf("-serf-lan-port=%d", a.ports[1]), fmt.Sprintf("-server-port=%d", a.ports[2]),
		"-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-serf-wan-port=-1")
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	Await(a.t, "Consul", func() error {
		leader, err := a.Client.Status().Leader()
		if err == nil && leader == "" {
			err = errors.New("no leader")
		}
		return err
	})
}

// End kills the agent, if it runs.
func (a *Agent) End() {
	if a.cmd == nil {
		return
	}
	if err := a.cmd.Process.Kill(); err != nil {
		a.t.Error(err)
	}
	_ = a.cmd.Wait() // killed
	a.cmd = nil
}

// AwaitServices wants exactly these ids, and returns them.
func (a *Agent) AwaitServices(ids ...string) map[string]*api.AgentService {
	a.t.Helper()
	var have map[string]*api.AgentService
	Await(a.t, fmt.Sprintf("the services %q", ids), func() (err error) {
		if have, err = a.Client.Agent().Services(); err != nil {
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

// Await repeats a question until its answer is no error, for two minutes.
func Await(t *testing.T, what string, ask func() error) {
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
