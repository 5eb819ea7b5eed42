package task

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

// RootTold reaches the owners of tasks whose root has become unhealthy, or
// healthy again.
func (m *Manager) RootTold(holders []string, h nfsroot.Health) {
	kind := "unhealthy"
	if h.OK() {
		kind = "healthy"
	}
	for _, key := range holders {
		if t, ok := m.holder(key); ok && t.state() != client.Exited {
			m.tell(t, kind, h.Text)
		}
	}
}

// remoteRoot is a root that a server has.
type remoteRoot struct {
	m   *Manager
	key string          // of its task
	src *nfsroot.Source // what find has found
}

// rootFor is the root that a task asks for, or else the host.
func (m *Manager) rootFor(spec client.TaskSpec, key string) root {
	if isNFS(cmp.Or(spec.Storage, m.Config.Storage.Driver)) {
		return &remoteRoot{m: m, key: key}
	}
	return localRoot{m}
}

// rootOf is the root of a task that an earlier daemon has started.
func (m *Manager) rootOf(t *task) root {
	if t.info.Storage == nfsStorage || t.began("nfs") {
		return &remoteRoot{m: m, key: t.key()}
	}
	return localRoot{m}
}

func (*remoteRoot) fetch(context.Context, *task, *client.Auth) (*image.Image, func(), error) {
	return nil, func() {}, nil
}

// askRoot asks for a root over NFS where the job, not the host, wants one.
func (p *plan) askRoot(spec client.TaskSpec) {
	if isNFS(spec.Storage) {
		p.ask(policy.NFS, policy.FromJob)
	}
}

// prepare has nothing to make: the server has done it.
func (*remoteRoot) prepare(context.Context, string, *plan, storage.Driver) (func(), error) {
	return func() {}, nil
}

func (*remoteRoot) look(context.Context, *plan, func(string) error) error { return nil }

// bounds are for asking each server, mounting, and reading what a start reads of the
// root.
func (r *remoteRoot) bounds() bounds {
	n := r.m.Config.NFS
	most := time.Duration(len(n.Servers)+3) * n.Options.Timeout
	return bounds{most: most, grace: n.Options.Timeout, abandon: func() error { return r.m.NFS.Abandon(r.key) },
		late: fmt.Errorf("root over NFS: %w: the start was given up after %s", nfsroot.ErrAway, most)}
}

func (r *remoteRoot) command(task string) bounds {
	most := r.m.Config.NFS.Options.Timeout
	return bounds{most: most, late: fmt.Errorf(
		"task %s: the program did not begin within %s: the server of its root is slow or away", task, most)}
}

func (*remoteRoot) takesCore() bool { return false }

func (r *remoteRoot) trouble() string {
	if h, has := r.m.NFS.Of(r.key); has && !h.OK() {
		return h.Text
	}
	return ""
}

// unread is why a process may have got SIGBUS: that is how the kernel ends a program of
// which it cannot read a page.
func (r *remoteRoot) unread() string {
	h, has := r.m.NFS.Of(r.key)
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
func (r *remoteRoot) leave() error { return r.m.NFS.Leave(r.key) }

// abandon goes by nothing that is known of the server: nothing else keeps what is killed.
func (r *remoteRoot) abandon() (time.Duration, error) {
	err := r.m.NFS.Abandon(r.key)
	if r.trouble() != "" {
		return awayTime, err
	}
	return sweepTime, err
}

func (*remoteRoot) unmount(dir, files string) error { return mount.ForceBelow(dir, files) }

func (r *remoteRoot) unwind(undo func() error) error {
	return errors.Join(r.leave(), r.m.NFS.During(r.key, undo))
}

// mount mounts the root from its server for a task, and tells the storage driver of it.
func (r *remoteRoot) mount(ctx context.Context, t *task, o *storage.Options) (err error) {
	if err := errors.Join(os.WriteFile(filepath.Join(t.journal.dir, taskManifest), r.src.Manifest, 0o600),
		os.WriteFile(filepath.Join(t.journal.dir, taskConfig), r.src.Config, 0o600)); err != nil {
		return err
	}
	o.NoSetuid = !r.m.Config.NFS.Options.AllowSetuid
	o.Lower, err = r.m.NFS.Acquire(ctx, r.src, r.key)
	if errors.Is(err, nfsroot.ErrAway) {
		return client.Unavailable("root over NFS: %v", err)
	}
	if err != nil {
		return fmt.Errorf("root over NFS: %w", err)
	}
	return nil
}

// find asks the servers that the host trusts. A name that this host knows
// means here what it means in other tasks.
func (r *remoteRoot) find(ctx context.Context, spec client.TaskSpec, _ *image.Image) (*image.Image, func(), error) {
	m := r.m
	if spec.ForcePull {
		return nil, nil, client.Invalid("force_pull: a root over NFS is not pulled")
	}
	servers, err := m.trusted(spec.Storage)
	if err != nil {
		return nil, nil, err
	}
	name, sum, err := remoteRef(spec.Image)
	if err != nil {
		return nil, nil, err
	}
	known := ""
	if img, err := m.Images.Get(spec.Image); err == nil && (sum == "" || sum == img.Digest.String()) {
		known, name, sum = img.Name, "", img.Digest.String()
	}
	src, err := nfsroot.Find(ctx, servers, name, sum, m.Config.NFS.Options)
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
	r.src = src
	return img, func() {}, nil
}

// trusted are the servers that may be asked: all that the host names, or the
// one of them that the job names.
func (m *Manager) trusted(kind string) ([]nfsroot.Server, error) {
	servers := m.Config.NFS.Servers
	if len(servers) == 0 {
		return nil, client.Invalid("root over NFS: this host trusts no server for roots (nfs { servers } in the host " +
			"configuration)")
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
	return nil, client.Refused("root over NFS: this host does not trust %s for roots; it trusts %s (nfs { servers } "+
		"in the host configuration)",
		want, strings.Trim(fmt.Sprint(servers), "[]"))
}

// remoteRef divides NAME, DIGEST or NAME@DIGEST.
func remoteRef(ref string) (name, sum string, err error) {
	if ref == "" {
		return "", "", client.Invalid("no image given")
	}
	if filepath.IsAbs(ref) {
		return "", "", client.Invalid("image %q: a root over NFS needs an image of the server: give its name there "+
			"or its digest, not an archive", ref)
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
	dir := r.m.path("tasks", r.key)
	manifest, err := os.ReadFile(filepath.Join(dir, taskManifest))
	if errors.Is(err, fs.ErrNotExist) {
		return r.m.Images.Get(i.Digest)
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
func (m *Manager) tendNFS() {
	if err := m.NFS.Tick(); err != nil {
		m.Log.Warn("nfs", "error", err)
	}
	lost := m.Config.NFS.Lost
	if lost == 0 {
		return
	}
	for _, s := range m.NFS.List() {
		if s.Health.OK() || time.Since(s.Health.Since) < lost {
			continue
		}
		for _, key := range s.Holders {
			if t, ok := m.holder(key); ok && t.state() == client.Running {
				m.tell(t, "lost", fmt.Sprintf("killed: %s for %s (nfs { lost })", s.Health.Text, lost))
				go m.killLost(t)
			}
		}
	}
}

func (m *Manager) killLost(t *task) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := m.Stop(ctx, t.id(), client.StopRequest{}); err != nil {
		m.Log.Warn("nfs: a task whose server is lost cannot be stopped", "task", t.id(), "error", err)
	}
}

// StorageKind is the storage driver for what a job or a host names: which server has the
// root is not the driver's matter.
func StorageKind(name string) string {
	if isNFS(name) {
		return nfsStorage
	}
	return name
}

// isNFS knows the two ways in which a task asks for a root over NFS: from any
// server of the host's, or from one by its URL.
func isNFS(kind string) bool { return kind == nfsStorage || strings.HasPrefix(kind, "nfs:") }

const nfsStorage = "nfs"
