package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

func (a *commands) processesCmd() *cobra.Command {
	return app.Command("processes TASK", "show the processes of a task", cobra.ExactArgs(1),
		func(ctx context.Context, args []string) error { return a.processes(ctx, args[0]) })
}

func (a *commands) processes(ctx context.Context, id string) error {
	u, err := a.client().Stats(ctx, id)
	if err != nil {
		return err
	}
	return a.Print(u, func(w io.Writer) {
		table(w, "PID\tRSS\tCPU\tCOMMAND", u.Procs, func(p client.ProcUsage) []string {
			return []string{fmt.Sprint(p.PID), units.BytesSize(float64(p.RSS)),
				(p.UserTime + p.SysTime).Round(time.Millisecond).String(), p.Command}
		})
	})
}

// topLine is what a task uses, and what its network stack carries, in bytes a second.
type topLine struct {
	statsLine
	in, out float64
}

// topOrders compare tasks, the one that is shown first by the smaller.
var topOrders = map[string]func(a, b topLine) int{
	"cpu":   func(a, b topLine) int { return cmp.Compare(b.CPU, a.CPU) },
	"time":  func(a, b topLine) int { return cmp.Compare(cpuTime(b.Usage), cpuTime(a.Usage)) },
	"rss":   func(a, b topLine) int { return cmp.Compare(b.RSS, a.RSS) },
	"swap":  func(a, b topLine) int { return cmp.Compare(swapped(b), swapped(a)) },
	"procs": func(a, b topLine) int { return cmp.Compare(len(b.Procs), len(a.Procs)) },
	"in":    func(a, b topLine) int { return cmp.Compare(b.in, a.in) },
	"out":   func(a, b topLine) int { return cmp.Compare(b.out, a.out) },
	"task":  func(a, b topLine) int { return cmp.Compare(a.Task, b.Task) },
}

func swapped(l topLine) uint64 {
	if l.Swap == nil {
		return 0
	}
	return *l.Swap
}

// topView is what is shown, how often, and in which order.
type topView struct {
	order    string
	delay    time.Duration
	displays int // how many are shown; 0 for no end
	batch    bool

	c       *client.Client
	before  map[string]client.Usage
	lines   []topLine
	message string // instead of the keys
	entry   entry
}

// minDelay is the shortest time between two displays: samples are not newer.
const minDelay = 500 * time.Millisecond

func (a *commands) topCmd() *cobra.Command {
	v := topView{order: "cpu", delay: 2 * time.Second}
	c := app.Command("top [TASK]", "show what tasks use, sorted, until q; or the processes of one",
		cobra.MaximumNArgs(1), func(ctx context.Context, args []string) error {
			if len(args) == 1 {
				return a.processes(ctx, args[0])
			}
			v.c = client.New(a.socket)
			return a.top(ctx, &v)
		})
	c.Long = `Shows what each task uses: processors (100 is one of them), memory, swap, processes,
and bytes a second of its own network stack. Of the terminal it takes these keys:

  q  end                      o  another order, by its name
  s  another delay            h  names of the orders
  P  order by cpu             M  order by rss         space  show now

Where standard output is no terminal, or with -b, displays are written one after
the other. With a TASK it is "freejail processes TASK".`
	c.Flags().BoolVarP(&v.batch, "batch", "b", false, "write displays one after the other, and take no keys")
	c.Flags().FuncP("displays", "d", "end after this `NUMBER` of displays (default: 1 without a terminal)",
		func(text string) (err error) {
			if v.displays, err = strconv.Atoi(text); err != nil || v.displays < 1 {
				return errors.New("expected a number of at least 1")
			}
			return nil
		})
	c.Flags().FuncP("order", "o", "sort by this `FIELD`: "+strings.Join(orderNames(), ", ")+" (default: cpu)",
		v.setOrder)
	c.Flags().FuncP("delay", "s", "the `TIME` between displays, such as 5s, or in seconds (default: 2s)", v.setDelay)
	return c
}

func orderNames() []string { return slices.Sorted(maps.Keys(topOrders)) }

func (v *topView) setOrder(text string) error {
	if topOrders[text] == nil {
		return fmt.Errorf("%q is none of %s", text, strings.Join(orderNames(), ", "))
	}
	v.order = text
	return nil
}

func (v *topView) setDelay(text string) error {
	var d *time.Duration
	if err := seconds(&d)(text); err != nil {
		return err
	}
	if *d < minDelay {
		return fmt.Errorf("expected at least %s", minDelay)
	}
	v.delay = *d
	return nil
}

func (a *commands) top(ctx context.Context, v *topView) error {
	in, out := int(os.Stdin.Fd()), int(os.Stdout.Fd())
	if v.batch || a.JSON || !term.IsTerminal(out) || !term.IsTerminal(in) {
		if v.displays == 0 && !term.IsTerminal(out) {
			v.displays = 1
		}
		return a.topBatch(ctx, v)
	}
	if err := v.sample(ctx); err != nil {
		return err
	}
	raw, err := makeRaw(in)
	if err != nil {
		return err
	}
	defer raw.Close()
	err = a.topScreen(ctx, v)
	_, werr := a.stream.Write([]byte("\r\n")) // the prompt comes below
	return errors.Join(err, werr)
}

// topBatch writes displays; the first of them after what it takes to see the use of processors.
func (a *commands) topBatch(ctx context.Context, v *topView) error {
	if err := v.sample(ctx); err != nil {
		return err
	}
	for n, delay := 1, statsEvery; ; n, delay = n+1, v.delay {
		if !client.Pause(ctx, delay) {
			return ctx.Err()
		}
		if err := v.sample(ctx); err != nil {
			return err
		}
		if err := a.topDisplay(v); err != nil || n == v.displays {
			return err
		}
	}
}

func (a *commands) topDisplay(v *topView) error {
	if !a.JSON {
		return a.PrintLine(nil, func(w io.Writer) {
			printable.Fprintln(w, v.summary())
			v.table(w)
			printable.Fprintln(w)
		})
	}
	var lines []statsLine
	for _, l := range v.lines {
		lines = append(lines, l.statsLine)
	}
	return a.statsJSON(lines)
}

// sample takes what tasks use now, with rates since the sample before.
func (v *topView) sample(ctx context.Context) error {
	now, err := v.c.AllStats(ctx)
	if err != nil {
		return err
	}
	v.lines = v.lines[:0]
	for _, s := range statsOf(v.before, now, nil) {
		l, was := topLine{statsLine: s}, v.before[s.Task]
		if wall := s.At.Sub(was.At).Seconds(); wall > 0 && s.Traffic != nil && was.Traffic != nil {
			l.in = rate(was.Traffic.BytesIn, s.Traffic.BytesIn, wall)
			l.out = rate(was.Traffic.BytesOut, s.Traffic.BytesOut, wall)
		}
		v.lines = append(v.lines, l)
	}
	v.before = now
	return nil
}

// rate is 0 where the counter began anew, as that of a new task with an old one's id.
func rate(before, now uint64, seconds float64) float64 {
	if now < before {
		return 0
	}
	return float64(now-before) / seconds
}

func (v *topView) summary() string {
	var cpu float64
	var rss uint64
	procs := 0
	for _, l := range v.lines {
		cpu, rss, procs = cpu+l.CPU, rss+l.RSS, procs+len(l.Procs)
	}
	return fmt.Sprintf("%s: %s, %s; CPU %.1f %%, RSS %s; by %s", time.Now().Format(time.TimeOnly),
		printable.Count(len(v.lines), "task"), plural(procs, "process", "es"), cpu, units.BytesSize(float64(rss)),
		v.order)
}

func plural(n int, thing, ending string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprint(n, " ", thing, ending)
}

func (v *topView) table(w io.Writer) {
	slices.SortStableFunc(v.lines, topOrders[v.order]) // they are in the order of their ids before
	table(w, "TASK\tCPU %\tTIME\tRSS\tSWAP\tPROCS\tIN/s\tOUT/s", v.lines, func(l topLine) []string {
		in, out := "-", "-"
		if l.Traffic != nil {
			in, out = units.BytesSize(l.in), units.BytesSize(l.out)
		}
		return []string{l.Task, fmt.Sprintf("%.1f", l.CPU), cpuTime(l.Usage).Round(10 * time.Millisecond).String(),
			units.BytesSize(float64(l.RSS)), swap(l.Swap), fmt.Sprint(len(l.Procs)), in, out}
	})
}

// topScreen draws until a key ends it. A daemon that is away is waited for.
func (a *commands) topScreen(ctx context.Context, v *topView) error {
	keys := typed(ctx)
	sizes, stop := resizes()
	defer stop()
	for n := 1; ; {
		if err := a.draw(v); err != nil || n == v.displays {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-sizes:
			continue
		case key, more := <-keys:
			quit, now := v.key(key)
			if !more || quit {
				return nil
			}
			if !now {
				continue
			}
		case <-time.After(v.wait(n)):
		}
		n++
		if err := v.sample(ctx); errors.Is(err, client.ErrNoDaemon) || errors.Is(err, client.ErrBrokenOff) {
			v.message = waitingText
		} else if err != nil {
			return err
		}
	}
}

// wait is short at first, as there is no use of processors without a second sample.
func (v *topView) wait(n int) time.Duration {
	if n == 1 {
		return min(statsEvery, v.delay)
	}
	return v.delay
}

// typed are the bytes of the terminal until it ends.
func typed(ctx context.Context) <-chan byte {
	keys := make(chan byte)
	go func() {
		defer close(keys)
		for b := make([]byte, 1); ; {
			if n, err := os.Stdin.Read(b); err != nil || n == 0 {
				return
			}
			select {
			case keys <- b[0]:
			case <-ctx.Done():
				return
			}
		}
	}()
	return keys
}

const topKeys = "q end, o order, s delay, h help"

// draw shows a display in place of the one before, as far as the terminal has room.
func (a *commands) draw(v *topView) error {
	size, is := windowSize()
	if !is || size.Rows < 2 || size.Cols < 2 {
		size = client.WindowSize{Rows: 24, Cols: 80}
	}
	var text bytes.Buffer
	printable.Fprintln(&text, v.summary())
	printable.Fprintln(&text, cmp.Or(v.entry.shown(), v.message, topKeys))
	v.table(&text)
	rows := strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")
	out := cursorHome
	for i, row := range rows[:min(len(rows), size.Rows)] {
		if i > 0 {
			out += "\r\n"
		}
		r := []rune(row)
		out += string(r[:min(len(r), size.Cols-1)]) + clearLine
	}
	_, err := a.stream.Write([]byte(out + clearBelow)) // each cell is printable
	return err
}

// What a terminal obeys.
const (
	cursorHome = "\x1b[H"
	clearLine  = "\x1b[K"
	clearBelow = "\x1b[J"
)

// entry is a line that is being typed.
type entry struct {
	prompt, text string
	done         func(text string) error
}

func (e entry) shown() string {
	if e.done == nil {
		return ""
	}
	return e.prompt + ": " + e.text
}

// Keys that have no letter.
const (
	keyCtrlC     = 3
	keyBackspace = 8
	keyNewline   = '\n'
	keyReturn    = '\r'
	keyEscape    = 27
	keyDelete    = 127
)

// key does what a key is for. Now is whether a sample is to be taken at once.
func (v *topView) key(k byte) (quit, now bool) {
	if k == keyCtrlC {
		return true, false
	}
	if v.entry.done != nil {
		v.message = v.entry.key(k)
		return false, false
	}
	v.message = ""
	switch k {
	case 'q':
		return true, false
	case ' ':
		return false, true
	case 'o':
		v.entry = entry{prompt: "order (" + strings.Join(orderNames(), " ") + ")", done: v.setOrder}
	case 's':
		v.entry = entry{prompt: "delay, in seconds", done: v.setDelay}
	case 'P':
		v.order = "cpu"
	case 'M':
		v.order = "rss"
	case 'h', '?':
		v.message = "q end, space now, s delay, P by cpu, M by rss, o by one of " + strings.Join(orderNames(), " ")
	default:
		v.message = "no such key: " + topKeys
	}
	return false, false
}

// key returns the error of a line that is complete.
func (e *entry) key(k byte) (message string) {
	switch {
	case k == keyReturn || k == keyNewline:
		if err := e.done(e.text); err != nil && e.text != "" {
			message = err.Error()
		}
		*e = entry{}
	case k == keyEscape:
		*e = entry{}
	case k == keyBackspace || k == keyDelete:
		e.text = e.text[:max(0, len(e.text)-1)]
	case k > ' ' && k < keyDelete && len(e.text) < 16:
		e.text += string(rune(k))
	}
	return message
}
