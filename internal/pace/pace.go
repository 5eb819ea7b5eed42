// Package pace bounds for how long the other side of a connection is waited for: it may pause and be slow, but does not
// keep for ever what others wait for by a byte now and then.
package pace

import (
	"io"
	"time"
)

// Rate is what the other side does at least.
type Rate struct {
	Pause time.Duration // at most without a byte, and behind Bytes on the whole
	Bytes int64         // a second
}

// Waits are those for one side: not for several goroutines at once. Only the time counts in which it is waited for,
// not what is done with its bytes meanwhile.
type Waits struct {
	rate  Rate
	late  func()
	left  time.Duration // that the other side may take for its next bytes; never more than Pause
	began time.Time
	timer *time.Timer
}

// Waits begins anew. Late is called, from a goroutine of its own, when the other side has taken too long: it has the
// wait end. It may be called more than once.
func (r Rate) Waits(late func()) *Waits { return &Waits{rate: r, late: late, left: r.Pause} }

// Begin begins a wait.
func (w *Waits) Begin() {
	w.began = time.Now()
	w.timer = time.AfterFunc(w.left, w.late)
}

// End ends a wait, which has brought n bytes. Without one it does nothing.
func (w *Waits) End(n int) {
	if w.timer == nil {
		return
	}
	w.timer.Stop()
	w.timer = nil
	w.count(time.Since(w.began), n)
}

// count is of a wait. What the other side was early is not saved up: who was fast must not stand still for longer.
func (w *Waits) count(took time.Duration, n int) {
	earned := min(w.rate.Pause, time.Duration(float64(n)/float64(w.rate.Bytes)*float64(time.Second)))
	w.left = min(w.rate.Pause, w.left-took+earned)
}

// Reader waits for what r reads.
func (w *Waits) Reader(r io.Reader) io.Reader { return reader{r, w} }

// Writer waits for the other side to take what is written.
func (w *Waits) Writer(to io.Writer) io.Writer { return writer{to, w} }

type reader struct {
	io.Reader
	w *Waits
}

func (r reader) Read(p []byte) (n int, err error) {
	r.w.Begin()
	defer func() { r.w.End(n) }()
	return r.Reader.Read(p)
}

type writer struct {
	io.Writer
	w *Waits
}

func (t writer) Write(p []byte) (n int, err error) {
	t.w.Begin()
	defer func() { t.w.End(n) }()
	return t.Writer.Write(p)
}
