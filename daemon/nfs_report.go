package daemon

import (
	"context"
	"fmt"
	"sync"

	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/internal/printable"
)

// checkNFS asks each server that is trusted for roots, and looks at this host's
// own exports.
func (d *Daemon) checkNFS(ctx context.Context, c *host.Checks) {
	servers := d.cfg.NFS.Servers
	answers := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() { answers[i] = s.Ping(ctx, d.cfg.NFS.Options) })
	}
	wg.Wait()
	for i, s := range servers {
		if answers[i] != nil {
			c.Bad("nfs server", fmt.Sprintf("%s: %v", s, answers[i]),
				"on the server: freejail doctor; freejail export --list")
		} else {
			c.OK("nfs server", s.String())
		}
	}
	for _, m := range d.nfs.List() {
		if !m.Health.OK() {
			c.Bad("nfs mount", fmt.Sprintf("%s of %s: %s", m.Digest,
				printable.Count(len(m.Holders), "task"), m.Health.Text),
				"bring the server back, or stop the tasks")
		}
	}
	if d.images.Exporter == nil {
		return
	}
	if problem, fix := d.images.Exporter.Serving(); problem != "" {
		c.Bad("nfs export", problem, fix)
	} else {
		c.OK("nfs export", d.cfg.NFS.Export.Dir)
	}
}
