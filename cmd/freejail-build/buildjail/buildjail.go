// Package buildjail executes the RUN instructions of a build, each in a jail of
// its own that has none of the privileges which an image can ask for, unless a
// build policy permits them: a /dev with the basic nodes, and the host's network
// or none.
package buildjail

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/jail"
)

// Runner implements build.Runner. A process has one, for it watches all the
// process's children.
type Runner struct {
	jails *jail.Manager
	state string
}

// New prepares jails, with their notes in a directory of the caller's that
// outlasts the Runner. It needs root; on Linux it needs runc.
func New(stateDir string) (*Runner, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("RUN needs root, for it makes a jail")
	}
	m, err := jail.Open(jail.Config{StateDir: stateDir})
	if err != nil {
		return nil, err
	}
	return &Runner{jails: m, state: stateDir}, nil
}

// Run executes a command in a new jail. A program that does not end with 0 is
// an error. Cancelling the context kills it.
func (r *Runner) Run(ctx context.Context, c build.Command) error {
	k, err := r.open(ctx, c)
	if err == nil {
		err = k.first(ctx, c)
	}
	return errors.Join(err, k.Close(context.WithoutCancel(ctx)))
}

// Open makes a jail for several commands, of which each finds what those before it
// left running.
func (r *Runner) Open(ctx context.Context, c build.Command) (build.Jail, error) {
	k, err := r.open(ctx, c)
	keeps := false
	if err == nil {
		keeps, err = k.keep(ctx)
	}
	if err == nil && keeps {
		return k, nil
	}
	if err = errors.Join(err, k.Close(context.WithoutCancel(ctx))); err != nil {
		return nil, err
	}
	_, err = io.WriteString(c.Output, "the image has no /bin/sh that keeps a container running: services end with the "+
		"command that starts them\n")
	return build.EachAlone(r), err
}

// kept is a jail from its making to its end.
type kept struct {
	*Runner
	name   string // empty: there is none
	undo   func() error
	copies []chan error // of output, which end with the last process that has it
	keeper io.Closer    // nil without

	writing sync.Mutex
}

// shared is a writer for several processes.
type shared struct {
	*sync.Mutex
	io.Writer
}

func (s *shared) Write(b []byte) (int, error) {
	s.Lock()
	defer s.Unlock()
	return s.Writer.Write(b)
}

// open returns what is to be closed in any case.
func (r *Runner) open(ctx context.Context, c build.Command) (*kept, error) {
	k := &kept{Runner: r}
	var err error
	if k.undo, err = r.prepare(c); err != nil {
		return k, err
	}
	params, err := networkParams(c.Network)
	if err != nil {
		return k, err
	}
	maps.Copy(params, c.Params)
	spec := jail.Spec{Name: "fj-build-" + strings.ToLower(rand.Text()), Root: c.Root, Hostname: "build",
		Params: params, Linux: c.Linux && needsLinuxulator}
	k.name = spec.Name // after an error too: it may be half made
	_, err = r.jails.Create(ctx, spec)
	return k, err
}

// Close kills what runs in the jail and takes away what was lent.
func (k *kept) Close(ctx context.Context) error {
	var errs []error
	if k.name != "" {
		errs = append(errs, k.jails.Remove(ctx, k.name))
	}
	for _, done := range k.copies {
		errs = append(errs, <-done)
	}
	if k.keeper != nil {
		errs = append(errs, k.keeper.Close())
	}
	return errors.Join(append(errs, k.undo())...)
}

// Exec executes one command.
func (k *kept) Exec(ctx context.Context, c build.Command) error {
	return k.command(ctx, c, k.jails.Exec)
}

// first executes the command with which the jail ends.
func (k *kept) first(ctx context.Context, c build.Command) error {
	return k.command(ctx, c, k.jails.Start)
}

// outputDelay is how long the rest of a command's output is waited for, where
// something that it left running holds its end of the pipe.
const outputDelay = 200 * time.Millisecond

func (k *kept) command(ctx context.Context, c build.Command,
	start func(context.Context, string, jail.Process) (int, error)) error {
	who, err := image.ResolveUser(c.Root, c.User)
	if err != nil {
		return err
	}
	out, w, err := os.Pipe()
	if err != nil {
		return err
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(&shared{&k.writing, c.Output}, out)
		copied <- errors.Join(err, out.Close())
	}()
	k.copies = append(k.copies, copied)
	null, err := os.Open(os.DevNull)
	if err != nil {
		return errors.Join(err, w.Close())
	}
	p := jail.Process{Args: c.Args, Env: c.Env, Dir: c.Dir, UID: who.UID, GID: who.GID, Groups: who.Groups,
		Stdin: null, Stdout: w, Stderr: w}
	if err := setHome(&p, c, who); err != nil {
		return errors.Join(err, w.Close(), null.Close())
	}
	pid, err := start(ctx, k.name, p)
	err = errors.Join(err, w.Close(), null.Close())
	if err != nil {
		return err
	}
	if err = k.wait(ctx, pid); err == nil {
		k.drain(copied)
	}
	return err
}

// drain waits for what a command has written.
func (k *kept) drain(copied chan error) {
	select {
	case err := <-copied:
		copied <- err // for Close
	case <-time.After(outputDelay):
	}
}

// setHome gives a command HOME, and with c.Login the rest of what a login gives:
// its user's home directory, if there is one, and a terminal without abilities.
func setHome(p *jail.Process, c build.Command, who image.Creds) error {
	set := func(name, value string) {
		if value != "" && !slices.ContainsFunc(p.Env, func(kv string) bool { return strings.HasPrefix(kv, name+"=") }) {
			p.Env = append(slices.Clip(p.Env), name+"="+value)
		}
	}
	set("HOME", who.Home)
	if !c.Login {
		return nil
	}
	home := cmp.Or(who.Home, "/")
	set("USER", cmp.Or(who.Name, "root"))
	set("SHELL", cmp.Or(who.Shell, "/bin/sh"))
	set("TERM", "dumb")
	set("PATH", "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:"+path.Join(home, "bin"))
	if !c.Linux {
		for _, kv := range loginClass {
			name, value, _ := strings.Cut(kv, "=")
			set(name, value)
		}
	}
	root, err := os.OpenRoot(c.Root)
	if err != nil {
		return err
	}
	if fi, err := root.Stat(strings.TrimPrefix(path.Clean("/"+home)+"/.", "/")); err == nil && fi.IsDir() {
		p.Dir = path.Clean("/" + home)
	}
	return root.Close()
}

// loginClass is what the class "default" of FreeBSD's own login.conf(5) sets.
var loginClass = []string{"BLOCKSIZE=K", "MAIL=/var/mail/root", "LANG=C.UTF-8", "MM_CHARSET=UTF-8"}

func (r *Runner) wait(ctx context.Context, pid int) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case e := <-r.jails.Wait(pid):
		switch {
		case e.OOM:
			return errors.New("the command was killed: no memory was left")
		case e.Signal != 0:
			return fmt.Errorf("the command was ended by signal %d", e.Signal)
		case !e.Known:
			return errors.New("it is not known how the command ended")
		case e.Code != 0:
			return fmt.Errorf("the command ended with exit code %d", e.Code)
		}
		return nil
	}
}

// mounter mounts in the root of one command.
type mounter struct {
	root  *mount.Root
	path  string // the root's, as the mount table has it
	by    *mount.Descriptors
	names string // the directory of by
}

func (r *Runner) mounter(root string) (*mounter, error) {
	m := &mounter{path: root, names: filepath.Join(r.state, "fd-"+strings.ToLower(rand.Text()))}
	var err error
	if m.root, err = mount.OpenRoot(root); err != nil {
		return nil, err
	}
	if m.by, err = mount.OpenDescriptors(m.names); err != nil {
		return nil, errors.Join(err, m.root.Close())
	}
	return m, nil
}

// close unmounts all that was mounted.
func (m *mounter) close() error {
	return errors.Join(m.unmount(), m.by.Close(), m.root.Close())
}

func (m *mounter) unmount() error { return mount.UnmountBelow(m.path, m.names) }

func (m *mounter) dir(target string, what mount.Mount) error { return m.on(m.root.Dir, target, what) }

func (m *mounter) file(target string, what mount.Mount) error { return m.on(m.root.File, target, what) }

func (m *mounter) on(open func(string) (*mount.Point, error), target string, what mount.Mount) error {
	at, err := open(target)
	if err != nil {
		return err
	}
	return errors.Join(m.by.On(at, what), at.Close())
}

// prepare mounts /dev, lends the host's resolv.conf, the secrets and the mounts. The undo is
// never nil.
func (r *Runner) prepare(c build.Command) (undo func() error, err error) {
	undo = func() error { return nil }
	if c.Root != filepath.Clean(c.Root) || !filepath.IsAbs(c.Root) {
		return undo, fmt.Errorf("root %q is not an absolute path", c.Root)
	}
	root, err := filepath.EvalSymlinks(c.Root) // as the mount table has it
	if err != nil {
		return undo, err
	}
	m, err := r.mounter(root)
	if err != nil {
		return undo, err
	}
	if err := m.mountDev(); err != nil {
		return m.close, err
	}
	secrets, err := lendSecrets(r.state, m, c.Secrets)
	undo = func() error { return errors.Join(secrets.takeBack(), m.close()) }
	if err == nil {
		err = secrets.lendMounts(c.Mounts)
	}
	if err != nil || c.Network != build.NetworkHost {
		return undo, err
	}
	giveBack, err := lendResolver(root)
	return func() error { return errors.Join(giveBack(), secrets.takeBack(), m.close()) }, err
}

const resolver = "etc/resolv.conf"

// lendResolver puts the host's resolv.conf where the image has none. What the
// command made of it is the image's; what is as it was is taken away again.
func lendResolver(dir string) (giveBack func() error, err error) {
	none := func() error { return nil }
	text, err := os.ReadFile("/" + resolver)
	if errors.Is(err, os.ErrNotExist) {
		return none, nil
	}
	if err != nil {
		return none, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return none, err
	}
	defer root.Close()
	if fi, err := root.Lstat("etc"); err != nil || !fi.IsDir() {
		return none, nil
	}
	f, err := root.OpenFile(resolver, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return none, nil
	}
	if err != nil {
		return none, err
	}
	_, err = f.Write(text)
	return func() error { return takeBack(dir, text) }, errors.Join(err, f.Close())
}

func takeBack(dir string, text []byte) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	fi, err := root.Lstat(resolver)
	if err != nil || !fi.Mode().IsRegular() || fi.Size() != int64(len(text)) {
		return nil // the command's own doing
	}
	have, err := root.ReadFile(resolver)
	if err != nil || string(have) != string(text) {
		return err
	}
	return root.Remove(resolver)
}
