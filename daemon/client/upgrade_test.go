package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A daemon that ends in its upgrade is told, not waited for without end.
func TestUpgradeOfADaemonThatEnds(t *testing.T) {
	was := goneTime
	goneTime = 100 * time.Millisecond
	t.Cleanup(func() { goneTime = was })
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/info", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"generation":"one"}`)) // the call fails without it
	})
	mux.HandleFunc("POST /v1/upgrade", func(w http.ResponseWriter, _ *http.Request) {
		l.Close()
		w.WriteHeader(http.StatusNoContent)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	t.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(l) }() // ends as the listener is closed
	_, err = New(socket).Upgrade(t.Context(), UpgradeRequest{})
	if !errors.Is(err, ErrNoDaemon) || !strings.Contains(err.Error(), "ended in the upgrade") {
		t.Errorf("the daemon is gone: %v", err)
	}
}

// What an upgrade breaks off goes on with the next daemon; one that does not come back is told of.
func TestBrokenOffByAnUpgrade(t *testing.T) {
	for name, c := range map[string]struct {
		state string // of the task after the upgrade
		call  func(*Client) error
		want  []string // requests
	}{
		"removal": {"", func(c *Client) error { return c.Destroy(t.Context(), "one", true) },
			[]string{"DELETE /v1/tasks/one", "GET /v1/info", "DELETE /v1/tasks/one"}},
		"removal of what has ended": {"", func(c *Client) error {
			if err := c.Destroy(t.Context(), "one", false); !errors.Is(err, ErrBrokenOff) {
				return fmt.Errorf("it could have been another task's: %w", err)
			}
			return nil
		}, []string{"DELETE /v1/tasks/one"}},
		"stop that was begun": {"stopping", stopOne, []string{"POST /v1/tasks/one/stop", "GET /v1/tasks/one",
			"GET /v1/tasks/one/wait"}},
		"stop that was not": {"running", stopOne, []string{"POST /v1/tasks/one/stop", "GET /v1/tasks/one",
			"POST /v1/tasks/one/stop"}},
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			var asked []string
			server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(
				func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					defer mu.Unlock()
					asked = append(asked, r.Method+" "+r.URL.Path)
					if len(asked) == 1 {
						panic(http.ErrAbortHandler)
					}
					_, _ = fmt.Fprintf(w, `{"state":%q,"code":7}`, c.state) // the call fails without it
				})}
			t.Cleanup(func() { server.Close() })
			go func() { _ = server.Serve(l) }() // ends as the listener is closed
			err = c.call(New(socket))
			mu.Lock()
			defer mu.Unlock()
			if err != nil || !slices.Equal(asked, c.want) {
				t.Errorf("%v, asked %q, want %q", err, asked, c.want)
			}
		})
	}
}

func stopOne(c *Client) error {
	e, err := c.Stop(context.Background(), "one", StopRequest{})
	if err == nil && e.Code != 7 {
		err = fmt.Errorf("it ended as %+v", *e)
	}
	return err
}

// An answer of which the rest does not come is told as one that the daemon's end has broken off.
func TestAnswerBrokenOff(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("[")) // the call fails without it
			panic(http.ErrAbortHandler)
		})}
	t.Cleanup(func() { server.Close() })
	go func() { _ = server.Serve(l) }() // ends as the listener is closed
	c := New(socket)
	_, tasksErr := c.Tasks(t.Context())
	for what, err := range map[string]error{"tasks": tasksErr, "metrics": c.Metrics(t.Context(), io.Discard)} {
		if !errors.Is(err, ErrBrokenOff) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A connection that the daemon's end closes just as a request goes out on it is another way to be broken off. By which
// error net/http tells it is left to chance.
func TestConnectionThatClosesAsARequestGoesOut(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 50 {
		c, closed := New(socket), make(chan struct{})
		changes := c.http.Transport.(*roads).changes
		dial := changes.DialContext
		changes.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return &line{Conn: &tellsClose{Conn: conn, closed: closed}}, err
		}
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
			if s, err := l.Accept(); err != nil || s.Close() != nil {
				t.Error(err)
			}
			<-closed // the end was read
		}})
		if _, err := c.Start(ctx, TaskSpec{ID: "one"}); !errors.Is(err, ErrBrokenOff) {
			t.Fatal(err)
		}
	}
}

// tellsClose tells of the first time that a connection is closed.
type tellsClose struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *tellsClose) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
