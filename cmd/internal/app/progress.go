// Package app is what the command lines of freejail and freejail-build share.
package app

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/freejail/freejail/internal/printable"
)

// lineEvery is how often a line is written without a terminal.
const lineEvery = 5 * time.Second

// Bar shows how far one thing has come: a bar on a terminal, lines now and then
// elsewhere. It may be used from several goroutines; nil is silent.
type Bar struct {
	w     io.Writer
	title string
	mu    sync.Mutex
	bar   *progressbar.ProgressBar // on a terminal, once something is known
	tty   bool
	last  time.Time
}

// NewBar begins with nothing done and nothing known.
func NewBar(w io.Writer, title string) *Bar {
	b := &Bar{w: w, title: printable.Line(title), last: time.Now()}
	if f, ok := w.(*os.File); ok {
		b.tty = term.IsTerminal(int(f.Fd()))
	}
	return b
}

// Set tells how many bytes of how many are done, and a note such as "2 of 5
// layers".
func (b *Bar) Set(done, total int64, note string) {
	if b == nil || total <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.tty {
		if time.Since(b.last) >= lineEvery {
			b.last = time.Now()
			printable.Fprintf(b.w, "%s: %s, %s of %s\n", b.title, note, units.BytesSize(float64(done)),
				units.BytesSize(float64(total)))
		}
		return
	}
	if b.bar == nil {
		b.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(b.w), progressbar.OptionShowBytes(true),
			progressbar.OptionUseIECUnits(true), progressbar.OptionShowTotalBytes(true), progressbar.OptionSetWidth(24),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	if b.bar.GetMax64() != total {
		b.bar.ChangeMax64(total)
	}
	b.bar.Describe(b.title + ", " + printable.Line(note))
	// Full only at the end: a finished bar is not drawn again.
	_ = b.bar.Set64(min(done, total-1)) // a terminal that is gone shows nothing
}

// End takes the bar away.
func (b *Bar) End() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bar != nil {
		_ = b.bar.Clear() // as above
		b.bar = nil
	}
}
