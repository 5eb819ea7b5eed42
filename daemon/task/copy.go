package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/works"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/pace"
	"github.com/freejail/freejail/internal/places"
	"github.com/freejail/freejail/internal/treecopy"
)

// maxCopyPath is a path's length in bytes; each copy is an event with its path.
const maxCopyPath = 4096

// copies are those under way, those among them that a server keeps from ending.
var copies = places.Places{Most: 16}

// Copier is who copies. Root of the host may; another is judged as one who is root in the task.
type Copier struct {
	Name string
	UID  int
	Root bool
}

// Copy copies between a task's root and an archive, on the connection that connect makes of a client's. It acts with
// the daemon's privileges on the files, which it reaches by descriptors alone.
func (m *Manager) Copy(ctx context.Context, id string, spec client.CopySpec, by Copier,
	connect func() (net.Conn, io.Reader, error)) error {
	t, err := m.find(id)
	if err != nil {
		return err
	}
	release, err := copies.Take(by.UID, by.Root)
	if err != nil {
		return client.Unavailable("copy: %v: try again when one has ended", err)
	}
	defer release()
	ctx, job, err := m.Works.Begin(ctx)
	if err != nil {
		return err
	}
	end := sync.OnceFunc(job.End)
	defer end()
	// What a server keeps from ending keeps the daemon from nothing.
	defer context.AfterFunc(ctx, func() { time.AfterFunc(awayTime, end) })()
	root, err := m.rootForCopy(t, spec, by)
	if err != nil {
		return err
	}
	defer root.Close()
	m.Event(t.id(), "copy", copyText(spec, by))
	conn, in, err := connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-t.done:
			cancel(client.Conflict("task %s ended during the copy", t.id()))
		case <-ctx.Done():
		}
	}()
	x := newCopying(conn, ClientRate, cancel)
	x.spec, x.root, x.log = spec, root, m.Log.With("task", t.id())
	if err := x.serve(ctx, conn, in, cancel); err != nil {
		m.Log.Debug("copy", "task", t.id(), "error", err)
	}
	return nil
}

func copyText(spec client.CopySpec, by Copier) string {
	if spec.In {
		return fmt.Sprintf("files are copied to %s by %s", spec.Path, by.Name)
	}
	return fmt.Sprintf("%s is copied out by %s", spec.Path, by.Name)
}

// rootForCopy opens the root of a running task, for who may be root there.
func (m *Manager) rootForCopy(t *task, spec client.CopySpec, by Copier) (*os.File, error) {
	switch {
	case spec.Path == "" || strings.Contains(spec.Path, "\x00"):
		return nil, client.Invalid("copy: not a path: %q", spec.Path)
	case len(spec.Path) > maxCopyPath || len(spec.Name) > maxCopyPath:
		return nil, client.Invalid("copy: a path has more than %d bytes", maxCopyPath)
	case spec.MaxBytes < 0:
		return nil, client.Invalid("copy: max_bytes is negative")
	}
	if why := t.root.trouble(); why != "" {
		return nil, client.Unavailable("task %s: %s", t.id(), why)
	}
	if err := m.mayCopy(t, by); err != nil {
		return nil, err
	}
	root, err := mount.OpenRoot(t.snapshot().Root)
	// Only now: a task that runs has its root, and what was opened is that.
	if now := t.state(); now != client.Running {
		return nil, errors.Join(client.Conflict("task %s is not running (%s): its root goes with it", t.id(), now),
			closeRoot(root))
	}
	if err != nil {
		return nil, err
	}
	return root.Itself().File(), nil
}

// mayCopy asks the policy whether who is not root of the host may be root in the task, unless its process is that.
func (m *Manager) mayCopy(t *task, by Copier) error {
	info, user := t.startedAs()
	if by.Root || user != nil && user.UID == 0 {
		return nil
	}
	img, err := t.root.image(info)
	if err != nil {
		return err
	}
	info.Spec.User = "root"
	p := &plan{image: img}
	p.askUser(info.Spec)
	return m.Judge.Decide(info.Spec, img, p.requests)
}

func closeRoot(r *mount.Root) error {
	if r == nil {
		return nil
	}
	return r.Close()
}

// copying is one copy with its client.
type copying struct {
	spec client.CopySpec
	root *os.File
	rate pace.Rate // of the client
	late func()
	out  *client.FrameWriter
	in   *io.PipeWriter
	log  hclog.Logger
}

// ClientRate is how fast a client takes or sends an archive, which keeps others from copying and saving: less than any
// link between hosts has.
var ClientRate = pace.Rate{Pause: time.Minute, Bytes: 32 << 10}

func newCopying(conn net.Conn, rate pace.Rate, cancel context.CancelCauseFunc) *copying {
	x := &copying{rate: rate, late: func() {
		cancel(client.Unavailable("the copy ended: its client neither took nor sent anything for %s, or less than %d "+
			"KiB a second on the whole", rate.Pause, rate.Bytes>>10))
	}}
	x.out = client.NewFrameWriter(rate.Waits(x.late).Writer(conn))
	return x
}

// lastWords is how long a client that does not read has when a copy is over before its time.
const lastWords = time.Second

// serve speaks the protocol of copies until all is copied.
func (x *copying) serve(ctx context.Context, conn net.Conn, in io.Reader, cancel context.CancelCauseFunc) error {
	archive, w := io.Pipe()
	x.in = w
	go func() {
		takeFrames(conn, in, x, x.log)
		cancel(errors.New("the client is gone"))
	}()
	stop := context.AfterFunc(ctx, func() {
		archive.CloseWithError(context.Cause(ctx))
		_ = conn.SetWriteDeadline(time.Now().Add(lastWords)) // of a closed connection there is none
	})
	err := x.copy(ctx, x.rate.Waits(x.late).Reader(archive))
	if stop() {
		_ = conn.SetWriteDeadline(time.Now().Add(x.rate.Pause)) // as above
	}
	archive.CloseWithError(io.ErrClosedPipe) // what the client sends yet is not waited for
	kind, last := client.ExitFrame, any(client.Exit{Known: true, At: time.Now()})
	if err != nil {
		kind, last = client.FailFrame, copyError(works.Ended(ctx, err))
	}
	b, jerr := json.Marshal(last)
	return errors.Join(err, jerr, x.out.Write(kind, b))
}

// copyError is what a client is told: what fails is a matter of the files that it named.
func copyError(err error) *client.Error {
	var own *client.Error
	if errors.As(err, &own) {
		return own
	}
	return client.Errorf(client.CodeInvalid, "%v", err)
}

func (x *copying) copy(ctx context.Context, archive io.Reader) error {
	o := treecopy.Options{MaxBytes: x.spec.MaxBytes, Owners: x.spec.Owners, Own: true, Problem: x.problem,
		Mounted: mountedInside()}
	if o.MaxBytes == 0 {
		o.MaxBytes = client.DefaultCopyBytes
	}
	if !x.spec.In {
		return treecopy.Send(ctx, x.root, x.spec.Path, x.spec.Follow, o, x.out.Stream(client.Stdout))
	}
	src := treecopy.Source{Name: x.spec.Name, Contents: x.spec.Contents}
	return treecopy.Receive(ctx, x.root, x.spec.Path, src, o, archive)
}

// problem tells the client of a file; one that is gone is found out by what follows.
func (x *copying) problem(name, why string) {
	_ = x.out.Write(client.Stderr, []byte(name+": "+why))
}

func (x *copying) input(p []byte) error {
	if len(p) == 0 {
		return x.in.Close()
	}
	_, err := x.in.Write(p)
	return err
}

func (x *copying) resize([]byte) error { return errNoTerminal }
func (x *copying) signal(string) error { return errNoTerminal }
func (x *copying) leave()              {}

var errNoTerminal = errors.New("a copy has neither a terminal nor a process")
