package nfsroot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	zfs "github.com/mistifyio/go-zfs/v3"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/dataset"
	"github.com/freejail/freejail/internal/mount"
)

// snapshot marks a dataset as whole, and is what can be sent to other servers.
const snapshot = "root"

// prepare makes the directory of roots. It has to be a file system of its own:
// NFS exports whole ones.
func (e *Exporter) prepare() error {
	if e.cfg.Dataset != "" {
		has, err := dataset.Has(e.cfg.Dataset)
		if err != nil {
			return fmt.Errorf("nfs: export: %w", err)
		}
		if has {
			return nil
		}
		_, err = zfs.CreateFilesystem(e.cfg.Dataset, map[string]string{"mountpoint": e.cfg.Dir, "atime": "off"})
		if err != nil {
			return fmt.Errorf("nfs: export: %w", err)
		}
		return nil
	}
	return e.ownFileSystem()
}

func (e *Exporter) ownFileSystem() error {
	var st unix.Statfs_t
	if err := unix.Statfs(e.cfg.Dir, &st); err != nil {
		return fmt.Errorf("nfs: export: %s: %w", e.cfg.Dir, err)
	}
	if on := unix.ByteSliceToString(st.Mntonname[:]); on != e.cfg.Dir {
		return fmt.Errorf("nfs: export: %s lies on the file system of %s, all of which clients could read: "+
			"mount one of its own there, or name a zfs_dataset", e.cfg.Dir, on)
	}
	return nil
}

func (e *Exporter) dataset(dir string) string { return e.cfg.Dataset + "/" + dir }

func (e *Exporter) has(dir string) (bool, error) {
	if e.cfg.Dataset == "" {
		return e.hasDir(dir)
	}
	return dataset.Has(e.dataset(dir) + "@" + snapshot)
}

// make fills a directory, or a dataset that nobody can write to afterwards.
func (e *Exporter) make(ctx context.Context, dir string, fill func(at string) error) error {
	if e.cfg.Dataset == "" {
		return e.makeDir(dir, fill)
	}
	d, err := zfs.CreateFilesystem(e.dataset(dir), map[string]string{"mountpoint": filepath.Join(e.cfg.Dir, dir)})
	if err != nil {
		return err
	}
	if err = os.Chmod(d.Mountpoint, 0o755); err == nil {
		err = fill(d.Mountpoint)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = d.SetProperty("readonly", "on")
	}
	if err == nil {
		_, err = d.Snapshot(snapshot, false)
	}
	if err != nil {
		return errors.Join(err, d.Destroy(zfs.DestroyForceUmount))
	}
	return nil
}

// sweep removes what an earlier daemon did not finish.
func (e *Exporter) sweep() error {
	if e.cfg.Dataset == "" {
		return e.sweepDirs()
	}
	list, err := zfs.Filesystems(e.cfg.Dataset)
	if err != nil {
		return err
	}
	for _, d := range list {
		dir, below := strings.CutPrefix(d.Name, e.cfg.Dataset+"/")
		if !below || !validDigest.MatchString(strings.Replace(dir, "-", ":", 1)) {
			continue
		}
		whole, err := e.has(dir)
		if err != nil {
			return err
		}
		if !whole {
			if err := d.Destroy(zfs.DestroyForceUmount); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Exporter) destroy(_ context.Context, dir string) error {
	path := filepath.Join(e.cfg.Dir, dir)
	if e.cfg.Dataset == "" {
		return e.cfg.RemoveTree(path)
	}
	d, err := zfs.GetDataset(e.dataset(dir))
	if err != nil {
		return err
	}
	if err := d.Destroy(zfs.DestroyRecursive | zfs.DestroyForceUmount); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// publish writes the exports and has mountd read them.
func (e *Exporter) publish() error {
	dirs := []string{e.cfg.Dir}
	if e.cfg.Dataset != "" {
		images, err := e.images()
		if err != nil {
			return err
		}
		for _, dir := range images {
			dirs = append(dirs, filepath.Join(e.cfg.Dir, dir))
		}
	}
	changed, err := e.writeExports(e.cfg.freebsdExports(dirs))
	if err != nil || !changed {
		return err
	}
	pid, err := mountd()
	if err != nil {
		return nil // Serving tells
	}
	if err := unix.Kill(pid, unix.SIGHUP); err != nil {
		return fmt.Errorf("mountd: %w", err)
	}
	return nil
}

// mountd is the process that exports.
func mountd() (int, error) {
	b, err := os.ReadFile("/var/run/mountd.pid")
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("/var/run/mountd.pid holds %q", b)
	}
	return pid, unix.Kill(pid, 0)
}

// settle is how long mountd may take to export what it was told.
const settle = 3 * time.Second

// overNFS tells whether a directory is on a file system of another host.
func overNFS(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, err
	}
	name, err := mount.TypeOf(&st)
	return name == "nfs", err
}

// serving is Serving of this host's own server.
func (e *Exporter) serving() (problem, fix string) {
	if _, err := mountd(); err != nil {
		return "mountd does not run",
			"sysrc nfs_server_enable=YES nfsv4_server_enable=YES " + e.flags() + " && service nfsd start"
	}
	dirs := []string{e.cfg.Dir}
	if list, err := e.List(); err == nil && e.cfg.Dataset != "" {
		for _, ex := range list {
			dirs = append(dirs, ex.Path)
		}
	}
	for _, dir := range dirs {
		if !exported(dir) {
			return fmt.Sprintf("mountd does not export %s; its reasons are in /var/log/messages", dir),
				"sysrc " + e.flags() + " && service mountd restart"
		}
	}
	if n, err := unix.SysctlUint32("vfs.nfsd.server_max_nfsvers"); err == nil && n < 4 {
		return "the server does not support NFSv4", "sysrc nfsv4_server_enable=YES && service nfsd restart"
	}
	c, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(Port), time.Second)
	if err != nil {
		return "nfsd does not run, or not on 127.0.0.1",
			"sysrc nfs_server_enable=YES nfsv4_server_enable=YES && service nfsd start"
	}
	c.Close()
	return "", ""
}

// flags are mountd's: it reads /etc/exports only if it is named, or if none is.
// With ZFS its script names that file by itself.
func (e *Exporter) flags() string {
	files := e.cfg.File
	if _, err := unix.SysctlUint32("vfs.zfs.version.spa"); err != nil {
		files = "/etc/exports " + files
	}
	return `mountd_flags="-r -S ` + files + `"`
}

// exported waits a moment for mountd.
func exported(dir string) bool {
	for wait := time.Duration(0); ; wait += 100 * time.Millisecond {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil || st.Flags&unix.MNT_EXPORTED != 0 {
			return err == nil
		}
		if wait >= settle {
			return false
		}
		time.Sleep(100 * time.Millisecond)
	}
}
