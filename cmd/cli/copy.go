package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/internal/treecopy"
)

// copyEnd is one end of a copy: a path in a task, or of this host, or the standard stream.
type copyEnd struct{ task, path string }

// stream is a path that means standard input or output.
const stream = "-"

// parseEnd takes what is before a colon for a task, unless a slash is before that too.
func parseEnd(text string) copyEnd {
	task, path, found := strings.Cut(text, ":")
	if !found || task == "" || strings.ContainsAny(task, "/.") {
		return copyEnd{path: text}
	}
	return copyEnd{task, path}
}

func (a *commands) cpCmd() *cobra.Command {
	var follow, owners bool
	most := int64(client.DefaultCopyBytes)
	c := app.Command("cp [flags] SRC DST", "copy files out of a running task or into it", cobra.ExactArgs(2),
		func(ctx context.Context, args []string) error {
			src, dst := parseEnd(args[0]), parseEnd(args[1])
			o := treecopy.Options{MaxBytes: most, Owners: owners}
			spec := client.CopySpec{Follow: follow, Owners: owners, MaxBytes: most}
			switch {
			case src.task != "" && dst.task != "":
				return app.Usagef("one end of a copy is a path of this host, or -")
			case src.task != "" && src.path != "":
				return a.copyOut(ctx, src, dst.path, spec, o)
			case dst.task != "" && dst.path != "":
				return a.copyIn(ctx, src.path, dst, spec, o)
			}
			return app.Usagef("one end of a copy is TASK:PATH")
		})
	c.Long = `SRC or DST is TASK:PATH, the other one a path of this host, or - for a tar archive
on standard input or output. A directory goes, with what it has, into a directory
that is there, or becomes DST; with /. behind it only what it has is copied. A file
that is there is replaced. Links are copied, not followed; FIFOs, devices, sockets
and file systems such as /dev and /proc are left out, which is told and fails.

What is copied belongs to root of the task, or to who copies it, without set-uid and
set-gid bits, unless --archive keeps them. The policy decides as about the user root
in the task; root of this host may.`
	c.Flags().BoolVarP(&follow, "follow-link", "L", false, "copy what SRC leads to, if it is a link")
	c.Flags().BoolVarP(&owners, "archive", "a", false, "keep owners, set-uid and set-gid bits")
	c.Flags().Func("max-size", "give up when the files are more than this `SIZE` (default: 64GiB)", size(&most))
	return c
}

// hostRoot is where paths of this host are looked up.
func hostRoot() (*os.File, error) { return os.Open("/") }

// absolute keeps what the end of a path says.
func absolute(path string) (string, error) {
	abs, err := filepath.Abs(path)
	clean, dir, contents := treecopy.Names(abs)
	if _, d, c := treecopy.Names(path); contents || c {
		return clean + "/.", err
	} else if dir || d {
		return clean + "/", err
	}
	return clean, err
}

// nameOf is what a copy of a path is called.
func nameOf(path string) (name string, contents bool) {
	clean, _, contents := treecopy.Names(path)
	if clean == "/" {
		return ".", true
	}
	return filepath.Base(clean), contents
}

func (a *commands) copyOut(ctx context.Context, src copyEnd, dst string, spec client.CopySpec,
	o treecopy.Options) error {
	spec.Path = src.path
	left := &leftOut{a: a}
	if dst == stream {
		if term.IsTerminal(int(os.Stdout.Fd())) {
			return app.Usagef("the archive is not for a terminal: redirect standard output")
		}
		err := a.client().Copy(ctx, src.task, spec, client.CopyIO{To: a.stream, Problem: left.tell})
		return left.end(inTask(src.task, err))
	}
	to, err := absolute(dst)
	if err != nil {
		return err
	}
	root, err := hostRoot()
	if err != nil {
		return err
	}
	defer root.Close()
	archive, w := io.Pipe()
	copied := make(chan error, 1)
	go func() {
		err := a.client().Copy(ctx, src.task, spec, client.CopyIO{To: w, Problem: left.tell})
		w.CloseWithError(err)
		copied <- err
	}()
	s := treecopy.Source{}
	s.Name, s.Contents = nameOf(src.path)
	err = onHost(treecopy.Receive(ctx, root, to, s, o, archive))
	if err == nil {
		_, err = io.Copy(io.Discard, archive) // the daemon has more to say
	}
	archive.CloseWithError(errors.New("nothing more is taken"))
	if cerr := <-copied; cerr != nil && (err == nil || errors.Is(err, cerr)) {
		err = inTask(src.task, cerr)
	}
	return left.end(err)
}

func (a *commands) copyIn(ctx context.Context, src string, dst copyEnd, spec client.CopySpec,
	o treecopy.Options) error {
	spec.Path, spec.In = dst.path, true
	left := &leftOut{a: a}
	if src == stream {
		if term.IsTerminal(int(os.Stdin.Fd())) {
			return app.Usagef("a tar archive is expected on standard input")
		}
		spec.Follow = false
		err := a.client().Copy(ctx, dst.task, spec, client.CopyIO{From: os.Stdin, Problem: left.tell})
		return left.end(inTask(dst.task, err))
	}
	from, err := absolute(src)
	if err != nil {
		return err
	}
	root, err := hostRoot()
	if err != nil {
		return err
	}
	defer root.Close()
	spec.Name, spec.Contents = nameOf(from)
	o.Problem = func(name, why string) { left.tell(name + ": " + why) }
	archive, w := io.Pipe()
	defer archive.Close()
	go func() { w.CloseWithError(onHost(treecopy.Send(ctx, root, from, spec.Follow, o, w))) }()
	err = a.client().Copy(ctx, dst.task, spec, client.CopyIO{From: archive, Problem: left.tell})
	return left.end(inTask(dst.task, err))
}

// onHost is an error of the end of a copy that is here.
func onHost(err error) error {
	var answer *client.Error
	if err == nil || errors.As(err, &answer) {
		return err
	}
	return fmt.Errorf("on this host: %w", err)
}

// inTask is an error of the other end, where that is one of files.
func inTask(id string, err error) error {
	var answer *client.Error
	if errors.As(err, &answer) && answer.Code == client.CodeInvalid {
		return fmt.Errorf("in task %s: %w", id, err)
	}
	return err
}

// leftOut tells of files that were not copied as they are: the command fails then.
type leftOut struct {
	a     *commands
	mu    sync.Mutex
	files int
}

// mostTold bounds how many of them have a line.
const mostTold = 100

func (l *leftOut) tell(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files++; l.files <= mostTold {
		printable.Fprintln(l.a.Messages, text)
	}
}

func (l *leftOut) end(err error) error {
	switch {
	case err != nil:
		return err
	case l.files > 0:
		return fmt.Errorf("not all was copied as it is: %s", printable.Count(l.files, "file"))
	}
	return nil
}
