package catalog

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/internal/testconsul"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
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
	testconsul.Await(t, "an event with "+want, func() error {
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

func open(t *testing.T, a *testconsul.Agent) (*Catalog, *told) {
	t.Helper()
	e := &told{}
	c, err := New(Config{Address: a.Addr, Node: "this host"}, hclog.NewNullLogger(), e.add)
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	t.Cleanup(func() { stop(); <-done })
	return c, e
}

func service(port int) []Service {
	return []Service{{PortName: "http", Name: "web", Tags: []string{"a"}, Address: "127.0.0.1", Port: port,
		Meta:  map[string]string{"image": "x"},
		Check: &Check{Type: "tcp", Interval: time.Second, Timeout: time.Second}}}
}

func TestServicesAreKeptTrue(t *testing.T) {
	a := testconsul.New(t)
	a.Start()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	// Another host's entry, somebody's own, and one of ours that a daemon of before left.
	for id, node := range map[string]string{"theirs": "another host", "own": "", "stale": "this host"} {
		reg := &api.AgentServiceRegistration{ID: id, Name: id, Meta: map[string]string{metaNode: node}}
		must(t, a.Client.Agent().ServiceRegister(reg))
	}
	c, _ := open(t, a)
	must(t, c.Ping(t.Context()))
	c.Set("one", service(l.Addr().(*net.TCPAddr).Port))
	s := a.AwaitServices("theirs", "own", "freejail-one-http")["freejail-one-http"]
	if s.Service != "web" || s.Address != "127.0.0.1" || s.Meta["image"] != "x" || s.Meta[metaTask] != "one" ||
		len(s.Tags) != 1 {
		t.Errorf("registered: %+v", s)
	}
	testconsul.Await(t, "its check to pass", func() error {
		list, _, err := a.Client.Health().Service("web", "a", true, nil)
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("%d pass", len(list))
		}
		return err
	})
	if st := c.Status("one"); len(st) != 1 || !st[0].Registered || st[0].Error != "" || st[0].ID != "freejail-one-http" {
		t.Errorf("status: %+v", st)
	}
	must(t, a.Client.Agent().ServiceDeregister("freejail-one-http")) // somebody's mistake
	a.AwaitServices("theirs", "own", "freejail-one-http")
	c.Remove(t.Context(), "one")
	have, err := a.Client.Agent().Services()
	must(t, err)
	if have["freejail-one-http"] != nil || len(have) != 2 {
		t.Errorf("after the removal: %v", have)
	}
	c.Remove(t.Context(), "one") // nothing there is no error
}

func TestConsulAway(t *testing.T) {
	a := testconsul.New(t)
	c, e := open(t, a)
	if err := c.Ping(t.Context()); err == nil {
		t.Error("nobody answered the ping")
	}
	c.Set("one", service(1))
	e.await(t, "one: Consul does not answer, registration is tried again")
	c.Set("two", service(2)) // it was away before this task
	e.await(t, "two: Consul does not answer, registration is tried again")
	for _, s := range append(c.Status("one"), c.Status("two")...) {
		if s.Registered || s.Error == "" {
			t.Errorf("status: %+v", s)
		}
	}
	a.Start()
	a.AwaitServices("freejail-one-http", "freejail-two-http")
	e.await(t, "one: Consul answers again")
	e.await(t, "two: Consul answers again")

	a.End() // and it forgets everything
	c.Remove(t.Context(), "two")
	e.await(t, "two: Consul does not answer; its services are removed as soon as it does")
	a.Start()
	a.AwaitServices("freejail-one-http")
}

// No task, and nothing of another's, can be taken for one of ours.
func TestOthersAreLeftAlone(t *testing.T) {
	ids := map[string]string{}
	for _, task := range []string{"a", "a-b", "a-b-c", "a_b"} {
		for _, port := range []string{"b", "c", "b-c", "c-d", "b_c"} {
			id := serviceID(task, port)
			if other := ids[id]; other != "" {
				t.Errorf("%s is the id of %s and of %s %s", id, other, task, port)
			}
			ids[id] = task + " " + port
		}
	}
	a := testconsul.New(t)
	a.Start()
	taken := &api.AgentServiceRegistration{ID: "freejail-one-http", Name: "vault", Port: 8200,
		Meta: map[string]string{metaNode: "another host"}}
	must(t, a.Client.Agent().ServiceRegister(taken))
	c, e := open(t, a)
	long := service(1)
	long[0].Meta = map[string]string{metaNode: "another host", metaTask: "vault", "a key": "x",
		"image": strings.Repeat("x", 5000), strings.Repeat("k", 200): "x", "job": "j"}
	c.Set("one", service(1))
	c.Set("two", long)
	e.await(t, "one: Consul does not take it: service freejail-one-http: there is one of this id")
	two := a.AwaitServices("freejail-one-http", "freejail-two-http")["freejail-two-http"]
	if m := two.Meta; len(m) != 4 || m[metaNode] != "this host" || m[metaTask] != "two" || m["job"] != "j" ||
		len(m["image"]) != 512 {
		t.Errorf("the metadata is %v", m)
	}
	c.Remove(t.Context(), "one")
	c.Remove(t.Context(), "two")
	have := a.AwaitServices("freejail-one-http")["freejail-one-http"]
	if have.Service != "vault" || have.Port != 8200 {
		t.Errorf("another's service is now %+v", have)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.list {
		if strings.Contains(l, "two:") {
			t.Errorf("the other task was told %q", l)
		}
	}
}

// What an image's program answers, and what its check says, never sends Consul to
// another address.
func TestChecksStayAtTheTask(t *testing.T) {
	a := testconsul.New(t)
	a.Start()
	elsewhere := make(chan string, 100)
	other := serve(t, func(w http.ResponseWriter, r *http.Request) { elsewhere <- r.URL.String() })
	asked := make(chan string, 100)
	own := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.String()
		http.Redirect(w, r, "http://"+other, http.StatusFound)
	})
	_, port, err := net.SplitHostPort(own)
	must(t, err)
	n, err := strconv.Atoi(port)
	must(t, err)
	c, _ := open(t, a)
	for i, path := range []string{"/up", "@" + other + "/", "//" + other, "", "/?a=" + other, "\\\\" + other} {
		// Announced at an address that is not the task's.
		c.Set(fmt.Sprintf("t%d", i), []Service{{PortName: "http", Name: "web", Address: "192.0.2.1", Port: n,
			Check: &Check{Type: "http", Path: path, Address: "127.0.0.1", Interval: time.Second,
				Timeout: time.Second}}})
	}
	for seen := map[string]bool{}; len(seen) < 4; { // those that a check can be made for at all
		seen[<-asked] = true
	}
	testconsul.Await(t, "a check that has followed nothing", func() error {
		checks, err := a.Client.Agent().Checks()
		for _, check := range checks {
			if err == nil && strings.Contains(check.Output, "302") {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("checks: %+v", checks))
	})
	select {
	case url := <-elsewhere:
		t.Errorf("Consul was sent to another address: %s", url)
	default:
	}
}

func serve(t *testing.T, f http.HandlerFunc) string {
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}
