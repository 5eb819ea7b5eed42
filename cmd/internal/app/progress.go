// Package app is what the command lines of freejail and freejail-build share.
package app

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/freejail/freejail/internal/printable"
)

// firstLine and lineEvery are how soon and how often a line is written without a
// terminal. They are variables for tests.
var (
	firstLine = time.Second
	lineEvery = 5 * time.Second
)

// Progress is how a command that takes long shows how far it is.
type Progress struct {
	Quiet bool
	mode  string
}

var progressModes = []string{"auto", "plain", "tty", "none"}

// Flags adds --quiet and --progress.
func (p *Progress) Flags(flags *pflag.FlagSet) {
	flags.BoolVarP(&p.Quiet, "quiet", "q", false, "print no progress")
	flags.Func("progress",
		"how progress is shown: as `HOW` fits (auto), in lines (plain), as a bar (tty), or not (none)",
		func(text string) error {
			if !slices.Contains(progressModes, text) {
				return errors.New("expected " + strings.Join(progressModes, ", "))
			}
			p.mode, p.Quiet = text, p.Quiet || text == "none"
			return nil
		})
}

// Bar begins one; it is nil, and silent, where nothing is to be shown.
func (p *Progress) Bar(a *App, title string) *Bar {
	if p.Quiet {
		return nil
	}
	b := NewBar(a.Terminal, title)
	if p.mode == "plain" || p.mode == "tty" {
		b.tty = p.mode == "tty"
	}
	return b
}

// Bar shows how far one thing has come: a bar on a terminal, lines now and then
// elsewhere. It may be used from several goroutines; nil is silent.
type Bar struct {
	w     io.Writer
	title string
	mu    sync.Mutex
	bar   *progressbar.ProgressBar // on a terminal, once something is known
	total int64                    // that it was made for
	said  string                   // on it
	tty   bool
	next  time.Time // line
}

// NewBar begins with nothing done and nothing known.
func NewBar(w io.Writer, title string) *Bar {
	b := &Bar{w: w, title: printable.Line(title), next: time.Now().Add(firstLine)}
	if f, ok := w.(*os.File); ok {
		b.tty = term.IsTerminal(int(f.Fd()))
	}
	return b
}

// Set tells how many bytes of how many are done, 0 where that is not known, and a note
// such as "2 of 5 layers", which may be empty.
func (b *Bar) Set(done, total int64, note string) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	title := b.title
	if note != "" {
		title += ", " + printable.Line(note)
	}
	if !b.tty {
		b.line(title, done, total)
		return
	}
	if b.bar == nil || b.total != total && b.total <= 0 {
		b.clear()
		b.bar, b.total, b.said = newTerminalBar(b.w, title, total), total, title
	}
	if total > 0 && b.bar.GetMax64() != total {
		b.bar.ChangeMax64(total)
	}
	if b.said != title {
		b.said = title
		b.bar.Describe(title)
	}
	if total > 0 { // full only at the end: a finished bar is not drawn again
		done = min(done, total-1)
	}
	_ = b.bar.Set64(done) // a terminal that is gone shows nothing
}

// newTerminalBar counts only where the total is not known.
func newTerminalBar(w io.Writer, title string, total int64) *progressbar.ProgressBar {
	if total <= 0 {
		total = -1
	}
	return progressbar.NewOptions64(total, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(title),
		progressbar.OptionShowCount(), progressbar.OptionShowBytes(true),
		progressbar.OptionUseIECUnits(true), progressbar.OptionShowTotalBytes(true), progressbar.OptionSetWidth(24),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(),
		progressbar.OptionSetSpinnerChangeInterval(0)) // nothing is drawn but by Set
}

func (b *Bar) line(title string, done, total int64) {
	now := time.Now()
	if now.Before(b.next) {
		return
	}
	b.next = now.Add(lineEvery)
	text := units.BytesSize(float64(done))
	if total > 0 {
		text += " of " + units.BytesSize(float64(total))
	}
	printable.Fprintf(b.w, "%s, %s\n", title, text)
}

// End takes the bar away.
func (b *Bar) End() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clear()
}

func (b *Bar) clear() {
	if b.bar != nil {
		_ = b.bar.Clear() // as above
		b.bar = nil
	}
}

// Bars show one thing after the other, with lines of text between them.
type Bars struct {
	p    *Progress
	app  *App
	mu   sync.Mutex
	what string
	bar  *Bar
}

// Bars begin with nothing shown.
func (p *Progress) Bars(a *App) *Bars { return &Bars{p: p, app: a} }

// Set tells how far something is; what was shown before is at its end.
func (b *Bars) Set(what string, done, total int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bar == nil || b.what != what {
		b.bar.End()
		b.what, b.bar = what, b.p.Bar(b.app, what)
	}
	b.bar.Set(done, total, "")
}

// End takes away what is shown.
func (b *Bars) End() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bar.End()
	b.bar = nil
}

// Say writes a line.
func (b *Bars) Say(text string) { printable.Fprintln(b, text) }

// Write writes text, before which it ends the bar.
func (b *Bars) Write(p []byte) (int, error) {
	b.End()
	n, err := b.app.Messages.Write(p)
	if err != nil {
		err = fmt.Errorf("messages: %w", err)
	}
	return n, err
}
