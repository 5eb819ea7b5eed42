// Package testconsul runs a real Consul agent for tests.
package testconsul

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/freejail/freejail/internal/testagent"
)

// Agent is a Consul agent in dev mode, which forgets all when it ends.
type Agent struct {
	*testagent.Consul
	t *testing.T
}

// New prepares an agent; the test is skipped where CONSUL_BIN names none.
func New(t *testing.T) *Agent {
	t.Helper()
	bin := os.Getenv("CONSUL_BIN")
	if bin == "" {
		t.Skip("CONSUL_BIN is not set; `make test` sets it")
	}
	c, err := testagent.NewConsul(bin, filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{c, t}
	t.Cleanup(a.End)
	return a
}

// Start returns when the agent leads its cluster of one.
func (a *Agent) Start() {
	a.t.Helper()
	if err := a.Consul.Start(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
}

// End kills the agent, if it runs.
func (a *Agent) End() {
	if err := a.Consul.End(os.Kill); err != nil {
		a.t.Error(err)
	}
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

// Await repeats a question until its answer is no error.
func Await(t *testing.T, what string, ask func() error) {
	t.Helper()
	if err := testagent.Await(t.Context(), what, ask); err != nil {
		t.Fatal(err)
	}
}
