package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// slow has a task for which is waited without end, and is asked for things that take until it is told.
type slow struct {
	fake
	asked chan string
	goOn  chan struct{}
}

func (s *slow) Wait(ctx context.Context, _ string) (*client.Exit, error) {
	s.asked <- "wait"
	<-ctx.Done()
	return nil, ctx.Err()
}

func (s *slow) Signal(string, string) error {
	s.asked <- "signal"
	<-s.goOn
	return client.Invalid("no such signal")
}

// served is a server on a socket that closes all its connections in its Keep, as exec does.
func served(t *testing.T, b Backend) (s *Server, socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	if s, err = Serve(socket, nil, b); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, socket
}

const signalling = "POST /v1/tasks/one/signal HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n{\"signal\":\"HUP\"}"

// Another program takes this one's place when those who have asked have their answers, and those who have connected and
// not asked yet; who connects then, waits for it.
func TestNobodyIsLeftWithoutAnAnswer(t *testing.T) {
	b := &slow{asked: make(chan string, 9), goOn: make(chan struct{})}
	s, socket := served(t, backendOf(b))
	dial := func() net.Conn {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	say := func(c net.Conn, text string) {
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
	}
	waits, asks, comes := dial(), dial(), dial()
	say(waits, "GET /v1/tasks/one/wait HTTP/1.1\r\nHost: x\r\n\r\n")
	say(asks, signalling)
	for range 2 {
		<-b.asked
	}
	for len(s.debts.newest()) == 0 { // until it is accepted
		time.Sleep(time.Millisecond)
	}
	var later net.Conn
	kept, replaced := errors.New("kept"), make(chan error, 1)
	go func() {
		replaced <- s.Keep(nil, func([]string) error {
			later = dial()
			say(later, "GET /v1/info HTTP/1.1\r\nHost: x\r\n\r\n")
			return kept
		})
	}()
	say(comes, signalling)
	<-b.asked
	select {
	case err := <-replaced:
		t.Fatalf("replaced while two are owed an answer: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(b.goOn)
	if err := <-replaced; !errors.Is(err, kept) {
		t.Fatal(err)
	}
	for name, c := range map[string]net.Conn{"asked": asks, "connected": comes, "came later": later} {
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("who %s: %v", name, err)
			continue
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := "no such signal"; err != nil || name != "came later" && !strings.Contains(string(text), want) {
			t.Errorf("who %s was told %q, %v", name, text, err)
		}
	}
}

func backendOf(s *slow) Backend {
	b := backend(&s.fake)
	b.Tasks, b.Host = s, s
	return b
}

// Who connects and says nothing, or does not read, keeps no program from the place of this one.
func TestNobodyHoldsUpAnUpgrade(t *testing.T) {
	b := &slow{asked: make(chan string, 9), goOn: make(chan struct{})}
	s, socket := served(t, backendOf(b))
	for _, text := range []string{"", signalling} {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
	}
	<-b.asked
	kept := errors.New("kept")
	for range 2 { // the second by a door that was opened again
		if err := s.Keep(nil, func([]string) error { return kept }); !errors.Is(err, kept) {
			t.Error(err)
		}
	}
	close(b.goOn)
	if _, err := client.New(socket).Info(t.Context()); err != nil {
		t.Errorf("after that: %v", err)
	}
	// Of a server whose socket is gone nobody waits for who comes.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep(nil, func([]string) error { return kept }); err == nil {
		t.Error("there was a socket to hand on")
	}
	for len(s.debts.newest()) > 0 { // connections that have ended are forgotten
		time.Sleep(time.Millisecond)
	}
}

// newest are those from whom a request is awaited.
func (d *debts) newest() (out []net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c, since := range d.open {
		if !since.IsZero() {
			out = append(out, c)
		}
	}
	return out
}
