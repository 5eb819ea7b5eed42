package catalog

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/internal/testconsul"
)

// stalling stands before an agent and holds the calls that change it, until it
// is let go.
type stalling struct {
	agent http.Handler
	first chan struct{} // closed at the first that is held
	let   chan struct{} // closed: none is held any more

	mu   sync.Mutex
	held int
}

func (s *stalling) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		s.mu.Lock()
		if s.held++; s.held == 1 {
			close(s.first)
		}
		s.mu.Unlock()
		select {
		case <-s.let:
		case <-r.Context().Done():
			return
		}
	}
	s.agent.ServeHTTP(w, r)
}

func (s *stalling) calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// A Consul agent that takes calls and does not answer them holds up the end of no
// task; what was to be removed goes when it answers.
func TestStalledConsulHoldsUpNoEnd(t *testing.T) {
	a := testconsul.New(t)
	a.Start()
	to, err := url.Parse("http://" + a.Addr)
	must(t, err)
	s := &stalling{agent: httputil.NewSingleHostReverseProxy(to), first: make(chan struct{}), let: make(chan struct{})}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	e := &told{}
	c, err := New(Config{Address: srv.Listener.Addr().String(), Node: "this host"}, hclog.NewNullLogger(), e.add)
	must(t, err)
	var ids []string
	for i := range 8 {
		task := fmt.Sprintf("t%d", i)
		c.Set(task, service(1000+i))
		ids = append(ids, serviceID(task, "http"))
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	t.Cleanup(func() { stop(); <-done })
	<-s.first
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	c.Remove(gone, "t0") // who asked has gone: nothing is waited for
	if n := s.calls(); n != 1 {
		t.Errorf("a removal that nobody waits for came after %d calls", n)
	}
	c.Remove(t.Context(), "t1")
	if n := s.calls(); n > 2 {
		t.Errorf("a removal came after %d calls that were not answered", n)
	}
	e.await(t, "t1: Consul does not answer; its services are removed as soon as it does")
	close(s.let)
	a.AwaitServices(ids[2:]...)
}
