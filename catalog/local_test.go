package catalog

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freejail/freejail/internal/testconsul"
)

// A host without Consul has the checks of images all the same.
func TestChecksWithoutConsul(t *testing.T) {
	elsewhere := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("another address was asked for %s", r.URL) })
	var code atomic.Int32
	code.Store(http.StatusOK)
	own := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://"+elsewhere)
		w.WriteHeader(int(code.Load()))
	})
	e := &told{}
	l := NewLocal(e.add)
	l.Set("one", []Service{checked(t, own, "http", "/up"), {PortName: "none", Name: "none"}})
	await := func(want, output string) {
		t.Helper()
		testconsul.Await(t, "the check to be "+want, func() error {
			s := l.Status("one")
			if len(s) != 1 || s[0].Health != want || !strings.Contains(s[0].Output, output) || s[0].Registered {
				return fmt.Errorf("the status is %+v", s)
			}
			return nil
		})
	}
	await(Starting, "")
	await(Healthy, "HTTP GET http://"+own+"/up: 200 OK")
	code.Store(http.StatusFound)
	await(Unhealthy, "302")
	code.Store(http.StatusTooManyRequests)
	await(Warning, "429")
	e.await(t, "one: the check of port http fails: HTTP GET")
	code.Store(http.StatusNoContent)
	await(Healthy, "204")
	e.await(t, "one: the check of port http passes again")

	l.Set("one", []Service{checked(t, own, "tcp", "")})
	await(Healthy, "TCP connect "+own+": Success")
	l.Remove(t.Context(), "one")
	l.Remove(t.Context(), "one")
	if s := l.Status("one"); len(s) != 0 {
		t.Errorf("after its end: %+v", s)
	}
}

// No check leads to another address, and each ends in its time.
func TestChecksOfTheHostStayAtTheTask(t *testing.T) {
	other := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("another address was asked for %s", r.URL) })
	own := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "http://"+other, http.StatusFound) })
	for _, path := range []string{"/up", "@" + other + "/", "//" + other, "", "/?a=" + other, "\\" + other, "/%"} {
		if health, output := probe(t.Context(), checked(t, own, "http", path)); health != Unhealthy || output == "" {
			t.Errorf("%q: %s %s", path, health, output)
		}
	}
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer mute.Close()
	s := checked(t, mute.Addr().String(), "http", "/")
	s.Check.Timeout = 50 * time.Millisecond
	if health, output := probe(t.Context(), s); health != Unhealthy || !strings.Contains(output, "deadline exceeded") {
		t.Errorf("a program that does not answer is %s: %s", health, output)
	}
}

// checked is a service at an address, with a check as often as there may be one.
func checked(t *testing.T, addr, kind, path string) Service {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	must(t, err)
	n, err := strconv.Atoi(port)
	must(t, err)
	return Service{PortName: "http", Name: "web", Address: host, Port: n,
		Check: &Check{Type: kind, Path: path, Address: host, Interval: time.Nanosecond}}
}
