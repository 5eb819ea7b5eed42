package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/jail"
	"github.com/freejail/freejail/storage"
)

// start runs a task. When it returns an error nothing of the task is left.
func (d *Daemon) start(ctx context.Context, job *work, spec client.TaskSpec) (*client.Task, error) {
	auth := spec.Auth
	spec.Auth = nil // of the task's record it is no part
	if err := checkImageName(spec); err != nil {
		return nil, err
	}
	if err := checkMemory(spec.Limits); err != nil {
		return nil, err
	}
	if err := d.boundDisk(&spec.Limits); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t, err := d.newTask(spec, cancel)
	if err != nil {
		return nil, err
	}
	if d.wantsNFS(spec) {
		err = d.startBounded(ctx, job, t)
	} else {
		err = d.pullAndStart(ctx, job, t, auth)
	}
	if err == nil {
		err = t.started(ctx)
	}
	if err != nil {
		return nil, d.failed(ctx, t, err)
	}
	// Not before: a start that fails after its process runs is abandoned, and
	// must not be told to end by two.
	info := t.snapshot()
	d.syncer.add(t.journal)
	go d.supervise(t, d.jails.Wait(info.PID))
	d.event(info.Spec.ID, "started", fmt.Sprintf("process %d runs in jail %s", info.PID, info.Jail))
	return &info, nil
}

// failed takes back what a start did and returns why it failed.
func (d *Daemon) failed(ctx context.Context, t *task, err error) error {
	why := ended(ctx, err)
	d.event(t.id(), eventKind(why), why.Error())
	var stuck *stuckStart
	if errors.As(err, &stuck) {
		d.abandonLater(t, stuck)
		return why
	}
	d.abandon(t)
	return why
}

func (d *Daemon) pullAndStart(ctx context.Context, job *work, t *task, auth *client.Auth) error {
	img, err := d.pullFor(ctx, t, auth)
	if err != nil {
		return err
	}
	return d.run(ctx, job, t, img)
}

func eventKind(err error) string {
	if client.IsRefused(err) {
		return "refused"
	}
	return "failed"
}

func (d *Daemon) newTask(spec client.TaskSpec, cancel context.CancelCauseFunc) (*task, error) {
	if !validID.MatchString(spec.ID) {
		return nil, client.Invalid("task id %q: want a letter, then at most 59 of A-Z a-z 0-9 _ -", spec.ID)
	}
	t := &task{done: make(chan struct{}), cancel: cancel, boot: d.boot}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, taken := d.tasks[spec.ID]; taken {
		return nil, client.Conflict("there is a task %q already: remove it first (freejail rm %s), or choose another id", spec.ID, spec.ID)
	}
	key, err := d.newKey(spec.ID)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	dir := d.path("tasks", key)
	t.info = client.Task{Spec: spec, Key: key, State: client.Starting, Jail: jailOf(key), CreatedAt: time.Now()}
	if t.journal, err = openJournal(dir); err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	if err := t.journal.write(record{Task: &t.info, Boot: t.boot}); err != nil {
		return nil, errors.Join(err, t.journal.remove())
	}
	d.tasks[spec.ID] = t
	return t, nil
}

// newKey makes the directory of a task whose id is free. The key is the id, unless
// something of an earlier task with that id is left. The caller holds the lock.
func (d *Daemon) newKey(id string) (string, error) {
	for key, n := id, 2; ; n++ {
		err := fs.ErrExist
		if _, taken := d.left[key]; !taken {
			err = os.Mkdir(d.path("tasks", key), 0o700)
		}
		if !errors.Is(err, fs.ErrExist) {
			return key, err
		}
		key = fmt.Sprintf("%s.%d", id, n)
	}
}

// abandon takes back all that a failed start did. What cannot be taken back now
// is left, and its id free.
func (d *Daemon) abandon(t *task) {
	defer t.isOver()
	t.mu.Lock()
	t.destroyed, t.cancel = true, nil
	t.info.State = client.Exited
	if t.info.Exit == nil {
		t.info.Exit = &client.Exit{Message: "its start failed", At: time.Now()}
	}
	t.mu.Unlock()
	if err := t.journal.write(record{Destroyed: true}); err != nil {
		d.log.Error("that a start failed is not journalled", "task", t.id(), "error", err)
	}
	d.sweepUp(t).await(context.Background(), sweepTime)
	d.letGo(t)
}

// run is the life of a task up to its running process; see the design. found is
// its image, where it was found or pulled already.
func (d *Daemon) run(ctx context.Context, job *work, t *task, found *image.Image) (err error) {
	img, remote, release, err := d.describe(ctx, t.info.Spec, found)
	if err != nil {
		return err
	}
	defer release()
	if err := changed(t.info.Spec, found, img); err != nil {
		return err
	}
	p, err := d.permitted(t, img)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	p.remote = remote
	store, err := d.storage(t.info.Spec.Storage)
	if err != nil {
		return client.Invalid("%v", err) // it says that it is of the storage
	}
	if remote == nil {
		release, err := d.ensureChain(ctx, t, p, store)
		if err != nil {
			return err
		}
		defer release()
	}
	if err := job.commit(); err != nil {
		return err
	}
	return d.build(ctx, t, p, store)
}

// permitted plans a task as the host's policy, sysctls and ports let it be.
func (d *Daemon) permitted(t *task, img *image.Image) (*plan, error) {
	spec := t.info.Spec
	p, err := d.makePlan(spec, img)
	if err != nil {
		return nil, err
	}
	if err := d.decide(spec, img, p.requests); err != nil {
		return nil, err
	}
	if err := checkSysctls(p.sysctl); err != nil {
		return nil, err
	}
	if err := p.boundMemory(spec.Limits.MemoryBytes); err != nil {
		return nil, err
	}
	t.set(func(i *client.Task) {
		i.Digest, i.Ports = img.Digest.String(), p.ports
		i.Spec.Wait, i.Spec.StopSignal, i.Spec.StopTimeout = p.wait, p.stopSignal, p.stopTimeout
	})
	return p, d.claimPorts(t)
}

// build takes the steps that change the host.
func (d *Daemon) build(ctx context.Context, t *task, p *plan, store storage.Driver) error {
	rules, err := d.acquireRuleset(ctx, t, p)
	if err != nil {
		return err
	}
	if err := d.makeRoot(ctx, t, p, store); err != nil {
		return err
	}
	if err := d.mountAll(ctx, t, p, rules); err != nil {
		return err
	}
	if err := d.createJail(ctx, t, p); err != nil {
		return err
	}
	if err := d.startProcess(ctx, t, p); err != nil {
		return err
	}
	return d.register(ctx, t)
}

func (d *Daemon) acquireRuleset(ctx context.Context, t *task, p *plan) ([]devfs.Rule, error) {
	rules, _ := d.composed(p.rules)
	err := t.step(ctx, undo{Op: "ruleset"}, func() error {
		id, err := d.rulesets.Acquire(rules, t.key())
		if err != nil {
			return err
		}
		return t.update(func(i *client.Task) { i.Ruleset = int(id) })
	})
	return rules, err
}

func (d *Daemon) makeRoot(ctx context.Context, t *task, p *plan, store storage.Driver) (err error) {
	chain, opts := p.image.ChainID.Encoded(), p.rootOptions()
	opts.DiskBytes = t.info.Spec.Limits.DiskBytes
	if p.remote != nil {
		opts.NoSetuid = !d.cfg.NFS.Options.AllowSetuid
		if opts.Lower, err = d.mountRemote(ctx, t, p.remote); err != nil {
			return err
		}
	}
	return t.step(ctx, undo{Op: "root", Arg: store.Name()}, func() error {
		root, err := store.Create(ctx, chain, t.key(), opts)
		t.set(func(i *client.Task) { i.Root, i.Storage = root, store.Name() })
		return err
	})
}

// ensureChain unpacks an image unless it is unpacked; it stays until release is
// called.
func (d *Daemon) ensureChain(ctx context.Context, t *task, p *plan, store storage.Driver) (release func(), err error) {
	u := d.images.Unpacking(p.image, nil)
	var chains []string
	for _, c := range p.image.Chains {
		chains = append(chains, c.Encoded())
	}
	told := false
	release, err = store.EnsureChain(ctx, chains, func(dir string, first, end int) error {
		if !told {
			told = true
			d.event(t.id(), "unpacking", fmt.Sprintf("unpacking %s", p.image.Name))
		}
		return u.Apply(ctx, dir, first, min(end, len(p.image.Layers)))
	})
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w%s", p.image.Name, err, lockedBy(err))
	}
	return release, nil
}

func (d *Daemon) createJail(ctx context.Context, t *task, p *plan) error {
	s := t.info.Spec
	hostname := s.Hostname
	if hostname == "" {
		hostname = s.ID
	}
	params := d.secureParams()
	for k, v := range p.params {
		params[k] = v
	}
	if t.info.Ruleset != 0 {
		params["devfs_ruleset"] = strconv.Itoa(t.info.Ruleset)
	}
	meta := map[string]string{"freejail": d.cfg.StateDir}
	for k, v := range s.Labels {
		meta[k] = v
	}
	err := t.step(ctx, undo{Op: "jail", Arg: t.info.Jail}, func() error {
		jid, err := d.jails.Create(ctx, jail.Spec{Name: t.info.Jail, Root: t.info.Root, Hostname: hostname, Params: params, Meta: meta,
			Limits: jailLimits(s.Limits), Linux: p.linuxulator(), InMemory: p.inMemory})
		t.set(func(i *client.Task) { i.JID = jid })
		return err
	})
	for _, text := range d.jails.Unenforced(jailLimits(s.Limits)) {
		d.event(t.id(), "limits", "not enforced on this host: "+text)
	}
	return err
}

func (d *Daemon) startProcess(ctx context.Context, t *task, p *plan) error {
	s := t.info.Spec
	user, err := lookUp(t.info.Root, p.image, s.User)
	if err != nil {
		return err
	}
	if err := d.checkUser(s, p, t.info.Root, user.UID); err != nil {
		return err
	}
	proc, err := process(t.info, p.image, user, p.args, p.env)
	if err != nil {
		return err
	}
	for _, m := range p.dirs {
		if m.Private {
			if err := giveTo(p.sources[m.Source], proc); err != nil {
				return fmt.Errorf("%s: %w", m.Target, err)
			}
		}
	}
	if proc.Stdin, err = os.Open(os.DevNull); err != nil {
		return err
	}
	defer proc.Stdin.Close()
	if proc.Stdout, err = d.openStream(t, "stdout"); err != nil {
		return fmt.Errorf("stdout: %w", err)
	}
	// The daemon must not hold the task's end: a reader waits for the last writer.
	defer proc.Stdout.Close()
	if proc.Stderr, err = d.openStream(t, "stderr"); err != nil {
		return fmt.Errorf("stderr: %w", err)
	}
	defer proc.Stderr.Close()
	pid, err := d.jails.Start(ctx, t.info.Jail, proc)
	if err != nil {
		if errors.Is(err, jail.ErrNoProgram) {
			return client.Invalid("%v", err)
		}
		return err
	}
	start, err := jail.StartTime(pid)
	if err != nil {
		d.log.Debug("the process ended at once", "task", t.id(), "error", err)
	}
	t.mu.Lock()
	t.pidStart, t.user = start, &user
	t.mu.Unlock()
	if err := t.update(func(i *client.Task) { i.PID, i.State, i.StartedAt = pid, client.Running, time.Now() }); err != nil {
		return err
	}
	fault("process", "done")
	return nil
}

// lookUp finds a user, or else the image's, in the files of a root.
func lookUp(root string, img *image.Image, user string) (image.Creds, error) {
	user = cmp.Or(user, img.Config.Config.User)
	creds, err := image.ResolveUser(root, user)
	if err != nil {
		return creds, client.Invalid("user %q: %v", user, err)
	}
	return creds, nil
}

// process is a command in a task. What the task does not say, the image does.
func process(info client.Task, img *image.Image, creds image.Creds, args, env []string) (jail.Process, error) {
	dir := cmp.Or(info.Spec.WorkDir, img.Config.Config.WorkingDir, "/")
	if creds.Home != "" && !hasEnv(env, "HOME") {
		env = append(env, "HOME="+creds.Home)
	}
	if !filepath.IsAbs(dir) {
		return jail.Process{}, client.Invalid("work_dir %q is not an absolute path", dir)
	}
	return jail.Process{Args: args, Env: env, Dir: dir, UID: creds.UID, GID: creds.GID, Groups: creds.Groups,
		NoCore: info.Storage == nfsStorage}, nil // its root may be away
}

// giveTo makes an opened directory its process's alone.
func giveTo(place *os.File, p jail.Process) error {
	fd, err := unix.Openat(int(place.Fd()), ".", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: place.Name(), Err: err}
	}
	f := os.NewFile(uintptr(fd), place.Name())
	return errors.Join(f.Chown(int(p.UID), int(p.GID)), f.Chmod(0o700), f.Close())
}

// outputFlags open a FIFO for reading too, so that the task never gets SIGPIPE
// while its reader restarts. A link in its place is not followed.
const outputFlags = unix.O_RDWR | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openStream opens what a task's process writes to: what its client names, or a
// FIFO of the daemon's own.
func (d *Daemon) openStream(t *task, stream string) (*os.File, error) {
	path := t.streamPath(stream)
	if path == "" {
		return d.newOutput(t, stream)
	}
	dir, _, err := confined(t.info.Spec, filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	f, err := openOutputAt(int(dir.Fd()), filepath.Base(path), outputFlags)
	return f, errors.Join(err, dir.Close())
}

func openOutputAt(dir int, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(dir, name, flags, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if m := st.Mode & unix.S_IFMT; m != unix.S_IFIFO && m != unix.S_IFREG && m != unix.S_IFCHR {
		return nil, errors.Join(fmt.Errorf("%s is neither a FIFO nor a file", name), f.Close())
	}
	// The process inherits the description: it must block as others do.
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
