package soak

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/testagent"
)

// await repeats a question until its answer is no error.
func await(what string, ask func() error) error {
	return testagent.Await(context.Background(), what, ask)
}

// host is the daemon with its configuration. Its state directory is on a small file system of its own.
type host struct {
	*client.Client
	dir  string
	cmd  *exec.Cmd
	gone chan struct{}
	// lives counts the processes, breaks how often one was killed or ended, while tasks went on.
	lives, breaks atomic.Int32
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

// start returns when the daemon answers and has found its tasks again.
func (h *host) start() error {
	log, err := os.OpenFile(h.path("daemon.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	h.cmd = exec.Command(os.Getenv("FREEJAIL_BIN"), "daemon", "--config", h.path("freejail.hcl"))
	h.cmd.Stdout, h.cmd.Stderr = log, log
	if err := h.cmd.Start(); err != nil {
		return err
	}
	h.lives.Add(1)
	gone := make(chan struct{})
	h.gone = gone
	go func(c *exec.Cmd) {
		_ = c.Wait() // who asks is told by the channel
		close(gone)
	}(h.cmd)
	return await("the daemon to answer", func() error {
		select {
		case <-gone:
			return testagent.Finally(errors.New("the daemon ended: " + h.logTail()))
		default:
		}
		info, err := h.Info(context.Background())
		if err == nil && info.Recovering != "" {
			err = errors.New(info.Recovering)
		}
		return err
	})
}

// end has the daemon end by a signal, and tells nobody.
func (h *host) end(sig syscall.Signal) error {
	h.breaks.Add(1)
	if err := h.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("the daemon: %w: %s", err, h.logTail())
	}
	select {
	case <-h.gone:
		return nil
	case <-time.After(testagent.Patience):
		return fmt.Errorf("the daemon does not end by %v", sig)
	}
}

// logTail is the end of the daemon's log, and of Nomad's.
func (h *host) logTail() string {
	var out strings.Builder
	for _, name := range []string{"daemon.log", "nomad.log"} {
		b, err := os.ReadFile(h.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			b = []byte(err.Error())
		}
		fmt.Fprintf(&out, "the end of %s:\n%s\n", name, b[max(0, len(b)-8000):])
	}
	return out.String()
}

// faultless wants no word of a panic or a race in the daemon's log.
func (h *host) faultless() error {
	b, err := os.ReadFile(h.path("daemon.log"))
	if err != nil {
		return err
	}
	for _, fault := range []string{"\npanic: ", "\nfatal error: ", "WARNING: DATA RACE"} {
		if _, after, has := strings.Cut(string(b), fault); has {
			return fmt.Errorf("the daemon's log has %s%s", strings.TrimSpace(fault), after[:min(8000, len(after))])
		}
	}
	return nil
}

// The ways in which a registry can be.
const (
	fine    = int32(iota)
	hangs   // takes requests and does not answer
	resets  // breaks off in the middle of what it sends
	refuses // says that it cannot serve now
)

// registryHost is a registry that can be in each of these ways, and away.
type registryHost struct {
	name   string // HOST:PORT
	way    atomic.Int32
	broken atomic.Int32 // answers that were broken off
	server *registry.Server
	web    *http.Server
}

func newRegistry(dir string) (*registryHost, error) {
	at, err := testagent.Addresses(1)
	if err != nil {
		return nil, err
	}
	r := &registryHost{name: at[0].String()}
	if r.server, err = registry.NewServer(dir, registry.ServerOptions{}); err != nil {
		return nil, err
	}
	return r, r.open()
}

// open has it be there, after close.
func (r *registryHost) open() error {
	l, err := net.Listen("tcp", r.name)
	if err != nil {
		return err
	}
	r.web = &http.Server{Handler: r}
	go func(w *http.Server) { _ = w.Serve(l) }(r.web) // until it is closed
	return nil
}

func (r *registryHost) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	switch r.way.Load() {
	case hangs:
		<-q.Context().Done()
	case refuses:
		http.Error(w, "no", http.StatusServiceUnavailable)
	case resets:
		if strings.Contains(q.URL.Path, "/blobs/") {
			w = &cut{ResponseWriter: w, left: 100, broken: &r.broken}
		}
		r.server.ServeHTTP(w, q)
	default:
		r.server.ServeHTTP(w, q)
	}
}

// cut ends a connection in the middle of an answer.
type cut struct {
	http.ResponseWriter
	left   int
	broken *atomic.Int32
}

func (c *cut) Write(p []byte) (int, error) {
	n := min(c.left, len(p))
	n, err := c.ResponseWriter.Write(p[:n])
	if c.left -= n; err == nil && c.left == 0 {
		if f, is := c.ResponseWriter.(http.Flusher); is {
			f.Flush()
		}
		c.broken.Add(1)
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// fill takes all that the file system of the state directory has left, and free makes room again.
func (h *host) fill() error {
	f, err := os.OpenFile(h.path("small/ballast"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	piece := make([]byte, 1<<20)
	for len(piece) > 0 {
		if _, err = f.Write(piece); err != nil {
			piece = piece[:len(piece)/2]
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

func (h *host) free() error { return os.Remove(h.path("small/ballast")) }
