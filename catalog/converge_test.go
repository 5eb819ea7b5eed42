package catalog

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/freejail/freejail/internal/testconsul"
)

const alloc = "b4e61df9-b095-d64e-f241-23860da1375f"

// status is that of the one service there is.
func status(t *testing.T, c *Catalog, want func(Entry) bool) Entry {
	t.Helper()
	var e Entry
	testconsul.Await(t, "the state of a service", func() error {
		c.poke()
		list := c.Status("one")
		if len(list) != 1 || !want(list[0]) {
			return fmt.Errorf("it is %+v", list)
		}
		e = list[0]
		return nil
	})
	return e
}

// A service block of the job has the port alone, whenever Nomad registers it, and its checks are
// what is told of the task.
func TestJobsServiceComesFirst(t *testing.T) {
	a := testconsul.New(t)
	a.Start()
	c, e := open(t, a)
	c.mu.Lock()
	c.back = time.Second
	c.mu.Unlock()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	ours := service(port)
	ours[0].Alloc, ours[0].Bound, ours[0].Since = alloc, "127.0.0.1", time.Now()
	c.Set("one", ours)
	a.AwaitServices("freejail-one-http")
	status(t, c, func(e Entry) bool { return e.Health == Healthy })

	theirs := "_nomad-task-" + alloc + "-web-shop-http"
	must(t, a.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: theirs, Name: "shop", Port: port,
		Address: "127.0.0.1", Check: &api.AgentServiceCheck{TCP: "127.0.0.1:1", Interval: "100ms"}}))
	c.poke()
	a.AwaitServices(theirs)
	e.await(t, "one: port http is registered in Consul by the job's service shop alone")
	s := status(t, c, func(e Entry) bool { return e.Health == Unhealthy })
	if s.Registered || s.By != "the job's service shop" || !strings.Contains(s.Output, "refused") {
		t.Errorf("the status is %+v", s)
	}
	e.await(t, "one: the check of port http fails: ")

	// An entry that goes may be the beginning of the task's end: ours does not come at once.
	went := time.Now()
	must(t, a.Client.Agent().ServiceDeregister(theirs))
	c.poke()
	a.AwaitServices("freejail-one-http")
	if d := time.Since(went); d < c.back {
		t.Errorf("it is there again after %s", d)
	}
	e.await(t, "one: port http is registered in Consul as web again")
	must(t, l.Close())
	status(t, c, func(e Entry) bool { return e.Registered && e.By == "" && e.Health == Unhealthy })
	c.Remove(t.Context(), "one")
	a.AwaitServices()
	testconsul.Await(t, "the state of the service to be forgotten", func() error {
		c.poke()
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.state) > 0 {
			return fmt.Errorf("there is that of %d", len(c.state))
		}
		return nil
	})
}

func TestStandIns(t *testing.T) {
	at := func(task string, since int, change func(*Service)) Service {
		s := service(8080)[0]
		s.Alloc, s.Bound, s.Protocol, s.Since = alloc, "127.0.0.1", "tcp", time.Unix(int64(since), 0)
		s.Meta = map[string]string{metaTask: task}
		if change != nil {
			change(&s)
		}
		return s
	}
	nomad := func(id, address string, port int) *api.AgentService {
		return &api.AgentService{ID: id, Service: "shop", Address: address, Port: port}
	}
	for name, c := range map[string]struct {
		want map[string]Service
		have []*api.AgentService
		by   map[string]string // id -> id
	}{
		"Nomad's": {map[string]Service{"a": at("a", 1, nil)},
			[]*api.AgentService{nomad("_nomad-task-"+alloc+"-group-g-shop-http", "127.0.0.1", 8080)},
			map[string]string{"a": "_nomad-task-" + alloc + "-group-g-shop-http"}},
		"Nomad's, at no address": {map[string]Service{"a": at("a", 1, nil)},
			[]*api.AgentService{nomad("_nomad-task-"+alloc+"-x", "", 8080)}, map[string]string{"a": "_nomad-task-" + alloc + "-x"}},
		"Nomad's, at another place of it": {map[string]Service{"a": at("a", 1, func(s *Service) { s.Also = Place{"192.0.2.1", 20001} })},
			[]*api.AgentService{nomad("_nomad-task-"+alloc+"-x", "192.0.2.1", 20001)}, map[string]string{"a": "_nomad-task-" + alloc + "-x"}},
		"others": {map[string]Service{"a": at("a", 1, nil)}, []*api.AgentService{
			nomad("_nomad-task-"+alloc+"-x", "127.0.0.1", 8081), nomad("_nomad-task-"+alloc+"-y", "127.0.0.2", 8080),
			nomad("_nomad-task-"+strings.Replace(alloc, "b4", "b5", 1)+"-x", "127.0.0.1", 8080),
			nomad("own", "127.0.0.1", 8080)}, nil},
		"a task of nobody's": {map[string]Service{"a": at("a", 1, func(s *Service) { s.Alloc = "" })},
			[]*api.AgentService{nomad("_nomad-task--x", "127.0.0.1", 8080)}, nil},
		"a sidecar": {map[string]Service{"a": at("side", 2, nil), "b": at("main", 1, nil)}, nil,
			map[string]string{"a": "b"}},
		"a sidecar beside Nomad's": {map[string]Service{"a": at("side", 2, nil), "b": at("main", 1, nil)},
			[]*api.AgentService{nomad("_nomad-task-"+alloc+"-x", "", 8080)},
			map[string]string{"a": "_nomad-task-" + alloc + "-x", "b": "_nomad-task-" + alloc + "-x"}},
		"another address":    {map[string]Service{"a": at("a", 1, nil), "b": at("b", 1, func(s *Service) { s.Bound = "::1" })}, nil, nil},
		"another protocol":   {map[string]Service{"a": at("a", 1, nil), "b": at("b", 1, func(s *Service) { s.Protocol = "udp" })}, nil, nil},
		"both of one task":   {map[string]Service{"a": at("a", 1, nil), "b": at("a", 1, nil)}, nil, nil},
		"of two allocations": {map[string]Service{"a": at("a", 1, nil), "b": at("b", 1, func(s *Service) { s.Alloc = "other" })}, nil, nil},
	} {
		have := map[string]*api.AgentService{}
		for _, s := range c.have {
			have[s.ID] = s
		}
		got := standIns(c.want, have)
		if len(got) != len(c.by) {
			t.Errorf("%s: %+v, want %v", name, got, c.by)
		}
		for id, by := range c.by {
			if got[id].id != by || got[id].by == "" {
				t.Errorf("%s: %s has %+v, want %s", name, id, got[id], by)
			}
		}
	}
}

// A new task of Nomad's waits for Nomad, others do not.
func TestNomadIsWaitedFor(t *testing.T) {
	c := &Catalog{wanted: map[string]map[string]Service{}, state: map[string]*condition{}, wake: make(chan struct{}, 1)}
	s := service(1)
	c.Set("cli", s)
	s = service(2)
	s[0].Alloc = alloc
	c.Set("nomad", s)
	if due := c.due(time.Now()); len(due) != 1 || due["freejail-cli-http"].Port != 1 {
		t.Errorf("at once: %v", due)
	}
	if due := c.due(time.Now().Add(nomadTime)); len(due) != 2 {
		t.Errorf("later: %v", due)
	}
}

// Owners are told of a check that goes on failing, and when it passes again, and not too often.
func TestChecksAreTold(t *testing.T) {
	is, now := &condition{}, time.Now()
	for i, step := range []struct {
		after  time.Duration
		health string
		want   news
	}{{0, Starting, nothing}, {0, Unhealthy, ""}, {time.Second, Healthy, ""}, {0, Unhealthy, ""}, {tellAfter, Unhealthy, failing},
		{tellAfter, Unhealthy, ""}, {0, Unknown, ""}, {0, Healthy, passing}, {0, Healthy, ""}, {0, Warning, ""},
		{tellAfter, Warning, ""}, {tellEvery, Warning, failing}, {0, "", passing}} {
		now = now.Add(step.after)
		is.health = step.health
		if got := is.news(now); got != step.want {
			t.Errorf("step %d, %s: told %q, want %q", i, step.health, got, step.want)
		}
	}
	e := &told{}
	c := &Catalog{state: map[string]*condition{"id": {failing: time.Now().Add(-tellAfter)}}, event: e.add}
	s := service(1)[0]
	s.Meta[metaTask] = "one"
	c.noteHealth("id", s, Unhealthy, "no")
	c.noteHealth("id", s, Healthy, "")
	want := "one: the check of port http fails: no; one: the check of port http passes again"
	if got := strings.Join(e.list, "; "); got != want {
		t.Errorf("told %q", got)
	}
	checks := []*api.AgentCheck{{Status: "passing", Output: "well"}, {Status: "critical", Output: "HTTP 500\n\x1b[2Jx\n"}}
	if is, output := worst(checks); is != Unhealthy || strings.ContainsAny(output, "\n\x1b") || !strings.HasPrefix(output, "HTTP 500") {
		t.Errorf("%s %q", is, output)
	}
	checks[1].Output = ""
	if is, _ := worst(checks); is != Starting {
		t.Errorf("a check that was not made yet: %s", is)
	}
	if is, output := worst(nil); is != "" || output != "" {
		t.Errorf("no checks: %q %q", is, output)
	}
}
