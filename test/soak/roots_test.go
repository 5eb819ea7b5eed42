package soak

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testnfs"
)

// nfs are the lines of the configuration for roots over NFS: the daemon exports the roots that it uses itself, by the
// server of another host.
const nfs = `
permit {
  nfs = true
}
nfs {
  servers = [%q]
  timeout = "20s"
  every   = "500ms"
  keep    = "2s"
  export {
    dir          = %q
    clients      = [%q]
    exports_file = %q
  }
}
`

// serveRoots has another host serve roots, where there can be one, and returns lines for the configuration.
func (s *soak) serveRoots() (string, error) {
	dir := s.path("server")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	server, err := testnfs.Start(dir)
	if errors.Is(err, testnfs.ErrUnavailable) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	s.roots = server
	return fmt.Sprintf(nfs, testnfs.URL, server.Roots, testnfs.Network, s.path("exports")), nil
}

// export has the server have the root of an image.
func (s *soak) export() error {
	if s.roots == nil {
		return nil
	}
	if _, err := s.Export(s.ctx, client.ExportRequest{Image: plain}); err != nil {
		return err
	}
	return s.roots.Export(s.path("exports"))
}

// remote runs a task whose root is on the server, to its end or to a moment before that; without one it is a short task.
func (w *worker) remote() error {
	if w.roots == nil {
		return w.short()
	}
	n, code := 1+w.r.IntN(300), w.r.IntN(100)
	spec, r := w.spec("lines", strconv.Itoa(n), strconv.Itoa(code))
	spec.Storage, r.code = "nfs", code
	runs := w.r.IntN(2) == 0
	if runs {
		spec.Args = []string{"count", strconv.Itoa(code)}
	}
	if _, err := w.begin(spec, r); err != nil {
		return err
	}
	if runs {
		return w.remove(r)
	}
	return w.wrote(r, n)
}

// rootsAway are errors of starts and commands whose server is away.
func rootsAway(work string, err error) bool {
	return client.AsError(err).Code == client.CodeUnavailable && strings.Contains(err.Error(), "over NFS") ||
		work == "exec" && strings.Contains(err.Error(), "the server of its root is slow or away")
}

// nfsAway has the server end, or packets to it vanish. What works waits for it, and it comes back in any case.
func (s *soak) nfsAway() error {
	leave, come := s.roots.StopNFSD, s.roots.StartNFSD
	if s.r.IntN(2) == 0 {
		leave, come = s.roots.Unplug, s.roots.Plug
	}
	s.after(1 + s.r.Int32N(4))
	if err := leave(); err != nil {
		return err
	}
	err := s.another()
	s.afterAtMost(8, 30*time.Second)
	if err = errors.Join(err, come()); err != nil {
		return err
	}
	return await("the roots over NFS to be healthy", func() error {
		tasks, err := s.Tasks(s.ctx)
		for _, t := range tasks {
			if t.State == client.Running && t.Unhealthy != "" {
				err = errors.Join(err, fmt.Errorf("%s: %s", t.ID, t.Unhealthy))
			}
		}
		return err
	})
}
