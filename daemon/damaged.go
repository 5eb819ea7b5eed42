package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/internal/aside"
)

// damaged tells of a file that was set aside, and what follows from that.
func (d *Daemon) damaged(m *aside.Moved, means string) {
	d.noteDamage(m.To, m.Error()+"; "+means)
	d.log.Error("a damaged file is set aside", "file", m.From, "as", m.To, "error", m.Err)
	d.event("damaged", m.Error()+"; "+means)
}

// leftAlone tells of a path that cannot be used and stays where it is.
func (d *Daemon) leftAlone(path string, err error) {
	d.noteDamage(path, err.Error())
	d.log.Error("damaged, and left in place", "path", path, "error", err)
	d.event("damaged", path+" cannot be used, and is left in place: "+err.Error())
}

// noteDamage has doctor tell of a path for as long as it is there.
func (d *Daemon) noteDamage(path, what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.aside[path] = what
}

// mayBeDamaged are the directories, in the state directory, whose files are set
// aside where they are.
var mayBeDamaged = []string{".", "tasks", "jails", "images", "nfs"}

// damages are what is set aside now, by path: by this daemon, or by one before it.
func (d *Daemon) damages() (map[string]string, error) {
	d.mu.Lock()
	all := maps.Clone(d.aside)
	d.mu.Unlock()
	var errs []error
	for _, dir := range mayBeDamaged {
		list, err := aside.In(d.path(dir))
		errs = append(errs, err)
		for _, path := range list {
			if all[path] == "" {
				all[path] = "set aside by an earlier daemon; see its log"
			}
		}
	}
	for path := range all {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			delete(all, path)
		}
	}
	return all, errors.Join(errs...)
}

// checkDamages has a line for each file that waits for the operator.
func (d *Daemon) checkDamages(c *host.Checks) {
	all, err := d.damages()
	if err != nil {
		c.Bad("recovery", err.Error(), "look into the state directory")
	}
	for _, path := range slices.Sorted(maps.Keys(all)) {
		fix := "remove it after a look; docs/recovery.md tells how to bring one back that was mended"
		if filepath.Dir(path) == d.path("tasks") && !aside.Is(filepath.Base(path)) {
			fix = "remove it after a look at its journal"
		}
		c.Bad("recovery", path+": "+strings.TrimPrefix(all[path], path+": "), fix)
	}
}

// checkStrays tells of the roots of no task, which were to be swept up when the
// daemon began.
func (d *Daemon) checkStrays(ctx context.Context, c *host.Checks) {
	for _, s := range d.openStores() {
		roots, err := s.Tasks(ctx)
		if err != nil {
			c.Bad("recovery", fmt.Sprintf("storage %s: %v", s.Name(), err), "")
		}
		for _, id := range roots {
			if !d.tasks.Known(id) {
				c.Warn("recovery", fmt.Sprintf("storage %s has a root %q of no task", s.Name(), id),
					"the next daemon removes it, or its log tells why not: "+task.StartAgain)
			}
		}
	}
}

// checkLeft names what could not be removed.
func (d *Daemon) checkLeft(c *host.Checks) {
	const endThat = "where a process, a mount, a snapshot or the host's securelevel keeps it, end that"
	for _, trouble := range d.tasks.Troubles() {
		c.Warn("leftovers", trouble, "the daemon tries again by itself; "+endThat)
	}
	for _, s := range d.openStores() {
		for _, what := range s.Leftovers() {
			c.Warn("leftovers", what, "the next daemon tries again; "+endThat)
		}
	}
}
