package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/nfsroot"
	"github.com/freejail/freejail/policy"
	"github.com/freejail/freejail/storage"
)

func (d *Daemon) openNFS() error {
	n := d.cfg.NFS
	var err error
	d.nfs, err = nfsroot.Open(nfsroot.Config{Dir: d.path("nfs"), Options: n.Options, Keep: n.Keep, Every: n.Every, Told: d.nfsTold,
		Damaged: d.leftAlone})
	return err
}

// nfsTold reaches the owners of tasks whose root has become unhealthy, or
// healthy again.
func (d *Daemon) nfsTold(holders []string, h nfsroot.Health) {
	kind := "unhealthy"
	if h.OK() {
		kind = "healthy"
	}
	for _, key := range holders {
		if t, ok := d.holder(key); ok && t.state() != client.Exited {
			d.tell(t, kind, h.Text)
		}
	}
}

// remoteRoot is a root that a server has.
type remoteRoot struct {
	d   *Daemon
	key string          // of its task
	src *nfsroot.Source // what find has found
}

// rootFor is the root that a task asks for, or else the host.
func (d *Daemon) rootFor(spec client.TaskSpec, key string) root {
	if isNFS(cmp.Or(spec.Storage, d.cfg.Storage.Driver)) {
		return &remoteRoot{d: d, key: key}
	}
	return localRoot{d}
}

// rootOf is the root of a task that an earlier daemon has started.
func (d *Daemon) rootOf(t *task) root {
	if t.info.Storage == nfsStorage || t.began("nfs") {
		return &remoteRoot{d: d, key: t.key()}
	}
	return localRoot{d}
}

func (*remoteRoot) fetch(context.Context, *task, *client.Auth) (*image.Image, error) { return nil, nil }

// askRoot asks for a root over NFS where the job, not the host, wants one.
func (p *plan) askRoot(spec client.TaskSpec) {
	if isNFS(spec.Storage) {
		p.ask(policy.NFS, policy.FromJob)
	}
}

// find asks for the image at the server that has the root: the files of this host are
// not asked for.
func (r *remoteRoot) find(ctx context.Context, spec client.TaskSpec, _ *image.Image) (img *image.Image, release func(), err error) {
	img, r.src, err = r.d.findRemote(ctx, spec)
	return img, func() {}, err
}

// prepare has nothing to make: the server has done it.
func (*remoteRoot) prepare(context.Context, string, *plan, storage.Driver) (func(), error) {
	return func() {}, nil
}

func (*remoteRoot) look(context.Context, *plan, func(string) error) error { return nil }

// bounds are for asking each server, mounting, and reading what a start reads of the
// root.
func (r *remoteRoot) bounds() bounds {
	n := r.d.cfg.NFS
	most := time.Duration(len(n.Servers)+3) * n.Options.Timeout
	return bounds{most: most, grace: n.Options.Timeout, abandon: func() error { return r.d.nfs.Abandon(r.key) },
		late: fmt.Errorf("root over NFS: %w: the start was given up after %s", nfsroot.ErrAway, most)}
}

func (r *remoteRoot) command(task string) bounds {
	most := r.d.cfg.NFS.Options.Timeout
	return bounds{most: most, late: fmt.Errorf(
		"task %s: the program did not begin within %s: the server of its root is slow or away", task, most)}
}

func (*remoteRoot) takesCore() bool { return false }

func (r *remoteRoot) trouble() string {
	if h, has := r.d.nfs.Of(r.key); has && !h.OK() {
		return h.Text
	}
	return ""
}

// unread is why a process may have got SIGBUS: that is how the kernel ends a program of
// which it cannot read a page.
func (r *remoteRoot) unread() string {
	h, has := r.d.nfs.Of(r.key)
	switch {
	case has && !h.OK():
		return h.Text
	case has:
		return fmt.Sprintf("as when %s refuses a page of the program", h.Server)
	}
	return ""
}

// uses: a chain of this host's is not what the server has.
func (*remoteRoot) uses(string, client.Task) bool { return false }

// leave ends the wait of processes for a server that is known to be away.
func (r *remoteRoot) leave() error { return r.d.nfs.Leave(r.key) }

// abandon goes by nothing that is known of the server: nothing else keeps what is killed.
func (r *remoteRoot) abandon() (time.Duration, error) {
	err := r.d.nfs.Abandon(r.key)
	if r.trouble() != "" {
		return awayTime, err
	}
	return sweepTime, err
}

func (*remoteRoot) unmount(dir, files string) error { return mount.ForceBelow(dir, files) }

func (r *remoteRoot) unwind(undo func() error) error {
	return errors.Join(r.leave(), r.d.nfs.During(r.key, undo))
}

// mount mounts the root from its server for a task, and tells the storage driver of it.
func (r *remoteRoot) mount(ctx context.Context, t *task, o *storage.Options) (err error) {
	if err := errors.Join(os.WriteFile(filepath.Join(t.journal.dir, taskManifest), r.src.Manifest, 0o600),
		os.WriteFile(filepath.Join(t.journal.dir, taskConfig), r.src.Config, 0o600)); err != nil {
		return err
	}
	o.NoSetuid = !r.d.cfg.NFS.Options.AllowSetuid
	o.Lower, err = r.d.nfs.Acquire(ctx, r.src, r.key)
	if errors.Is(err, nfsroot.ErrAway) {
		return client.Unavailable("root over NFS: %v", err)
	}
	if err != nil {
		return fmt.Errorf("root over NFS: %w", err)
	}
	return nil
}

// findRemote asks the servers that the host trusts. A name that this host knows
// means here what it means in other tasks.
func (d *Daemon) findRemote(ctx context.Context, spec client.TaskSpec) (*image.Image, *nfsroot.Source, error) {
	if spec.ForcePull {
		return nil, nil, client.Invalid("force_pull: a root over NFS is not pulled")
	}
	servers, err := d.trusted(spec.Storage)
	if err != nil {
		return nil, nil, err
	}
	name, sum, err := remoteRef(spec.Image)
	if err != nil {
		return nil, nil, err
	}
	known := ""
	if img, err := d.images.Get(spec.Image); err == nil && (sum == "" || sum == img.Digest.String()) {
		known, name, sum = img.Name, "", img.Digest.String()
	}
	src, err := nfsroot.Find(ctx, servers, name, sum, d.cfg.NFS.Options)
	if errors.Is(err, nfsroot.ErrAway) {
		return nil, nil, client.Unavailable("image %q: root over NFS: %v", spec.Image, err)
	}
	if errors.Is(err, nfsroot.ErrNotExported) {
		return nil, nil, client.NotFound("image %q: root over NFS: %v; there: freejail export IMAGE", spec.Image, err)
	}
	if err != nil {
		return nil, nil, client.Invalid("image %q: root over NFS: %v", spec.Image, err)
	}
	img, err := image.Describe(cmp.Or(known, src.Name), digest.Digest(src.Digest), src.Manifest, src.Config)
	if err != nil {
		return nil, nil, client.Invalid("image %q of %s: %v", spec.Image, src.Server, err)
	}
	return img, src, nil
}

// trusted are the servers that may be asked: all that the host names, or the
// one of them that the job names.
func (d *Daemon) trusted(kind string) ([]nfsroot.Server, error) {
	servers := d.cfg.NFS.Servers
	if len(servers) == 0 {
		return nil, client.Invalid("root over NFS: this host trusts no server for roots (nfs { servers } in the host configuration)")
	}
	if kind == "" || kind == nfsStorage {
		return servers, nil
	}
	want, err := nfsroot.ParseServer(kind)
	if err != nil {
		return nil, client.Invalid("root over NFS: %v", err)
	}
	for _, s := range servers {
		if s == want {
			return []nfsroot.Server{s}, nil
		}
	}
	return nil, client.Refused("root over NFS: this host does not trust %s for roots; it trusts %s (nfs { servers } in the host configuration)",
		want, strings.Trim(fmt.Sprint(servers), "[]"))
}

// remoteRef divides NAME, DIGEST or NAME@DIGEST.
func remoteRef(ref string) (name, sum string, err error) {
	if ref == "" {
		return "", "", client.Invalid("no image given")
	}
	if filepath.IsAbs(ref) {
		return "", "", client.Invalid("image %q: a root over NFS is an image's of the server: give its name there or its digest, not an archive", ref)
	}
	name, sum, has := strings.Cut(ref, "@")
	if !has && strings.HasPrefix(ref, "sha256:") {
		name, sum = "", ref
	}
	if sum != "" {
		if err := digest.Digest(sum).Validate(); err != nil {
			return "", "", client.Invalid("image %q: %v", ref, err)
		}
	}
	return name, sum, nil
}

// The description of an image that is not in the store is kept with its task.
const (
	taskManifest = "image-manifest.json"
	taskConfig   = "image-config.json"
)

// image is what was noted when the task began.
func (r *remoteRoot) image(i client.Task) (*image.Image, error) {
	dir := r.d.path("tasks", r.key)
	manifest, err := os.ReadFile(filepath.Join(dir, taskManifest))
	if errors.Is(err, fs.ErrNotExist) {
		return r.d.images.Get(i.Digest)
	}
	if err != nil {
		return nil, err
	}
	config, err := os.ReadFile(filepath.Join(dir, taskConfig))
	if err != nil {
		return nil, err
	}
	return image.Describe(i.Spec.Image, digest.Digest(i.Digest), manifest, config)
}

// tendNFS takes down mounts that nobody needs, and kills tasks whose server is
// lost.
func (d *Daemon) tendNFS() {
	if err := d.nfs.Tick(); err != nil {
		d.log.Warn("nfs", "error", err)
	}
	lost := d.cfg.NFS.Lost
	if lost == 0 {
		return
	}
	for _, s := range d.nfs.List() {
		if s.Health.OK() || time.Since(s.Health.Since) < lost {
			continue
		}
		for _, key := range s.Holders {
			if t, ok := d.holder(key); ok && t.state() == client.Running {
				d.tell(t, "lost", fmt.Sprintf("killed: %s for %s (nfs { lost })", s.Health.Text, lost))
				go d.killLost(t)
			}
		}
	}
}

func (d *Daemon) killLost(t *task) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := d.Stop(ctx, t.id(), client.StopRequest{}); err != nil {
		d.log.Warn("nfs: a task whose server is lost is not ended", "task", t.id(), "error", err)
	}
}

// isNFS knows the two ways in which a task asks for a root over NFS: from any
// server of the host's, or from one by its URL.
func isNFS(kind string) bool { return kind == nfsStorage || strings.HasPrefix(kind, "nfs:") }

const nfsStorage = "nfs"
