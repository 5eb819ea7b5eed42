package driver

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// endsOf is a daemon as far as ends of tasks go: task N exits with code N.
type endsOf struct {
	mu      sync.Mutex
	over    map[string]bool
	changed chan struct{} // closed when a task ends, or connections are to
	epoch   int           // grows when all connections are to end
	older   bool
	waits   int // requests that wait for one task
	follows int // that wait for all
}

func newEndsOf() *endsOf { return &endsOf{over: map[string]bool{}, changed: make(chan struct{})} }

// change does something and wakes all.
func (s *endsOf) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *endsOf) see(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func exitOf(id string) *client.Exit {
	code, err := strconv.Atoi(id)
	if err != nil {
		panic(err)
	}
	return &client.Exit{Known: true, Code: code}
}

// each calls f at once and at each change, until it is to end.
func (s *endsOf) each(r *http.Request, f func(over map[string]bool) (more bool)) {
	var epoch int
	s.see(func() { epoch = s.epoch })
	for {
		var more bool
		var changed chan struct{}
		s.see(func() { more, changed = s.epoch == epoch && f(s.over), s.changed })
		if !more {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func (s *endsOf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	enc := json.NewEncoder(w)
	var older bool
	s.see(func() { older = s.older })
	switch id := r.PathValue("id"); {
	case older && !strings.HasSuffix(r.URL.Path, "/wait"):
		http.NotFound(w, r)
	case id == "": // what is over already is not told
		s.see(func() { s.follows++ })
		defer s.see(func() { s.follows-- })
		told := map[string]bool{}
		s.see(func() {
			for id := range s.over {
				told[id] = true
			}
		})
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		s.each(r, func(over map[string]bool) bool {
			for id := range over {
				if !told[id] {
					told[id] = true
					_ = enc.Encode(client.Ended{ID: id, Exit: exitOf(id)})
				}
			}
			w.(http.Flusher).Flush()
			return true
		})
		panic(http.ErrAbortHandler)
	case strings.HasSuffix(r.URL.Path, "/over"):
		e := client.Ended{ID: id}
		s.see(func() {
			if s.over[id] {
				e.Exit = exitOf(id)
			}
		})
		_ = enc.Encode(e)
	default:
		s.see(func() { s.waits++ })
		defer s.see(func() { s.waits-- })
		is := false
		s.each(r, func(over map[string]bool) bool {
			is = over[id]
			return !is
		})
		if !is {
			panic(http.ErrAbortHandler)
		}
		_ = enc.Encode(exitOf(id))
	}
}

// daemonOf is a client of what stands in for a daemon.
func daemonOf(t *testing.T, h http.Handler) *client.Client {
	t.Helper()
	dir, err := os.MkdirTemp("", "fj") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: h}
	go web.Serve(l)
	t.Cleanup(func() {
		web.Close()
		os.RemoveAll(dir)
	})
	return client.New(l.Addr().String())
}

// wait has n tasks be waited for, each of which gives the code that was told, or an error.
func (s *endsOf) wait(t *testing.T, n int) (codes []chan any, ends *taskEnds) {
	t.Helper()
	m := http.NewServeMux()
	m.Handle("GET /v1/ends", s)
	m.Handle("GET /v1/tasks/{id}/wait", s)
	m.Handle("GET /v1/tasks/{id}/over", s)
	c := daemonOf(t, m)
	ends = newTaskEnds(func() *client.Client { return c }, func(context.Context, error) {})
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	t.Cleanup(func() {
		stop()
		all.Wait()
	})
	for i := range n {
		codes = append(codes, make(chan any, 1))
		all.Go(func() {
			for {
				e, err := ends.wait(ctx, strconv.Itoa(i))
				switch {
				case err == nil:
					codes[i] <- e.Code
					return
				case ctx.Err() != nil:
					codes[i] <- err
					return
				}
				client.Pause(ctx, time.Millisecond) // as WaitTask tries again
			}
		})
	}
	return codes, ends
}

// till looks until something is so.
func (s *endsOf) till(t *testing.T, what string, is func() bool) {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		ok := false
		if s.see(func() { ok = is() }); ok {
			return
		}
		if time.Since(begin) > time.Minute {
			t.Fatal("waited for ", what)
		}
	}
}

func checkCodes(t *testing.T, codes []chan any) {
	t.Helper()
	for i, c := range codes {
		select {
		case got := <-c:
			if got != i {
				t.Errorf("task %d: %v", i, got)
			}
		case <-time.After(time.Minute):
			t.Errorf("nobody hears of the end of task %d", i)
		}
	}
}

// However many tasks there are, one connection waits for them.
func TestOneConnectionForAllEnds(t *testing.T) {
	s := newEndsOf()
	codes, ends := s.wait(t, 100)
	s.till(t, "the connection", func() bool { return s.follows == 1 })
	s.till(t, "all to wait", func() bool {
		ends.mu.Lock()
		defer ends.mu.Unlock()
		return len(ends.waiting) == len(codes)
	})
	for i := range codes {
		s.change(func() {
			if s.over[strconv.Itoa(i)] = true; s.waits != 0 || s.follows > 1 {
				t.Errorf("%d wait for one task, %d for all", s.waits, s.follows)
			}
		})
	}
	checkCodes(t, codes)
	s.till(t, "the connection to end with the last who waits", func() bool { return s.follows == 0 })
}

// What ends at any time, also while the connection is broken, is told.
func TestEndsWhileConnectionsBreak(t *testing.T) {
	for round := range 5 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			s := newEndsOf()
			codes, _ := s.wait(t, 40)
			for _, i := range rand.Perm(len(codes)) {
				s.change(func() {
					if rand.IntN(4) == 0 {
						s.epoch++
					}
					s.over[strconv.Itoa(i)] = true
				})
				time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
			}
			checkCodes(t, codes)
		})
	}
}

// A daemon of an older version is waited for as it knows it, and one connection does after its upgrade.
func TestEndsOfAnOlderDaemon(t *testing.T) {
	s := newEndsOf()
	s.older = true
	codes, ends := s.wait(t, 10)
	s.till(t, "a connection for each", func() bool { return s.waits == len(codes) })
	s.change(func() { s.over["3"] = true })
	s.till(t, "one to be told", func() bool { return s.waits == len(codes)-1 })
	s.change(func() { s.older = false })
	s.till(t, "a connection for all", func() bool { return s.follows == 1 && !ends.isOlder() })
	s.change(func() { s.epoch++ }) // the older one is gone with its connections
	s.change(func() {
		for i := range codes {
			s.over[strconv.Itoa(i)] = true
		}
	})
	checkCodes(t, codes)
}
