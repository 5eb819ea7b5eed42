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
	"github.com/freejail/freejail/nfsroot"
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

// withHealth tells what is wrong with a task's root, if anything is known.
func (d *Daemon) withHealth(i client.Task) client.Task {
	if i.Storage == nfsStorage && i.State != client.Exited {
		if h, has := d.nfs.Of(keyOf(i)); has && !h.OK() {
			i.Unhealthy = h.Text
		}
	}
	return i
}

// unread tells why a task over NFS may have got SIGBUS: that is how the kernel
// ends a program of which it cannot read a page.
func (d *Daemon) unread(t *task) string {
	h, has := d.nfs.Of(t.key())
	switch {
	case has && !h.OK():
		return h.Text
	case has:
		return fmt.Sprintf("as when %s refuses a page of the program", h.Server)
	}
	return ""
}

// wantsNFS tells whether a task's root comes by NFS: the job or the host says.
func (d *Daemon) wantsNFS(spec client.TaskSpec) bool {
	return isNFS(cmp.Or(spec.Storage, d.cfg.Storage.Driver))
}

// describe finds a task's image: on this host, or for a root over NFS at the
// server that has the root, where the files of this host are not asked for.
// One of this host is held until release is called. found is the image, where it
// is known already; if a collection took it since, its name is looked up again.
func (d *Daemon) describe(ctx context.Context, spec client.TaskSpec, found *image.Image) (img *image.Image, src *nfsroot.Source, release func(), err error) {
	if found != nil {
		if release, err = d.images.Hold(found); !errors.Is(err, image.ErrNotFound) {
			return found, nil, release, err
		}
	}
	if !d.wantsNFS(spec) {
		img, release, err = d.holdImage(ctx, spec)
		return img, nil, release, err
	}
	img, src, err = d.findRemote(ctx, spec)
	return img, src, func() {}, err
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

// mountRemote mounts a task's root on the server, and returns where it is.
func (d *Daemon) mountRemote(ctx context.Context, t *task, src *nfsroot.Source) (lower string, err error) {
	dir := t.journal.dir
	if err := errors.Join(os.WriteFile(filepath.Join(dir, taskManifest), src.Manifest, 0o600),
		os.WriteFile(filepath.Join(dir, taskConfig), src.Config, 0o600)); err != nil {
		return "", err
	}
	err = t.step(ctx, undo{Op: "nfs"}, func() error {
		lower, err = d.nfs.Acquire(ctx, src, t.key())
		return err
	})
	if errors.Is(err, nfsroot.ErrAway) {
		return "", client.Unavailable("root over NFS: %v", err)
	}
	if err != nil {
		return "", fmt.Errorf("root over NFS: %w", err)
	}
	return lower, nil
}

// imageOf finds the image of a task that was started.
func (d *Daemon) imageOf(i client.Task) (*image.Image, error) {
	if i.Storage != nfsStorage {
		return d.images.Get(i.Digest)
	}
	dir := d.path("tasks", keyOf(i))
	manifest, err := os.ReadFile(filepath.Join(dir, taskManifest))
	if errors.Is(err, fs.ErrNotExist) {
		return d.images.Get(i.Digest)
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

// startBounded starts a task whose root is a server's. The server can be away
// in the middle of it, and then it is the kernel that waits: no one else does.
func (d *Daemon) startBounded(ctx context.Context, job *work, t *task) error {
	timeout := d.cfg.NFS.Options.Timeout
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { done <- d.run(ctx, job, t, nil) }()
	// To ask each server, to mount, and to read what a start reads of the root.
	patience := time.Duration(len(d.cfg.NFS.Servers)+3) * timeout
	limit := time.NewTimer(patience)
	defer limit.Stop()
	var why error
	select {
	case err := <-done:
		return err
	case <-ctx.Done(): // most of a start ends with it
		why = context.Cause(ctx)
		select {
		case <-done:
			return why
		case <-time.After(awayTime):
		}
	case <-limit.C:
		why = fmt.Errorf("root over NFS: %w: the start was given up after %s", nfsroot.ErrAway, patience)
	}
	cancel() // a program that does not begin is killed
	// Without other tasks there the kernel need not wait any longer.
	if err := d.nfs.Abandon(t.key()); err != nil {
		why = errors.Join(why, err)
	}
	select {
	case <-done:
		return client.Unavailable("%v", why)
	case <-time.After(timeout):
	}
	return &stuckStart{error: client.Unavailable("%v", why), done: done}
}

// stuckStart is a start that the kernel still holds.
type stuckStart struct {
	error
	done <-chan error
}

func (s *stuckStart) Unwrap() error { return s.error }

// abandonLater undoes a start when the kernel lets go of it.
func (d *Daemon) abandonLater(t *task, s *stuckStart) {
	t.mu.Lock()
	t.destroyed, t.cancel = true, nil
	t.mu.Unlock()
	if err := t.journal.write(record{Destroyed: true}); err != nil {
		d.log.Error("journal", "task", t.id(), "error", err)
	}
	go func() {
		<-s.done
		d.abandon(t)
	}()
}

// startExecBounded is startExec for a root whose server can be away.
func (d *Daemon) startExecBounded(ctx context.Context, t *task, spec client.ExecSpec) (*execSession, error) {
	i := t.snapshot()
	if i.Storage != nfsStorage {
		return d.startExec(ctx, t, spec)
	}
	timeout := d.cfg.NFS.Options.Timeout
	away := func(text string) error {
		return client.Unavailable("task %s: %s", t.id(), text)
	}
	slow := away(fmt.Sprintf("the program did not begin within %s: the server of its root is slow or away", timeout))
	if h, has := d.nfs.Of(t.key()); has && !h.OK() {
		return nil, away(h.Text)
	}
	type result struct {
		x   *execSession
		err error
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	done := make(chan result, 1)
	go func() {
		x, err := d.startExec(ctx, t, spec)
		done <- result{x, err}
	}()
	select {
	case r := <-done:
		if errors.Is(r.err, context.DeadlineExceeded) {
			return nil, slow
		}
		return r.x, r.err
	case <-ctx.Done():
	}
	go func() {
		if r := <-done; r.err == nil {
			r.x.kill()
		}
	}()
	return nil, slow
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
