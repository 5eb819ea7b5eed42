package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"text/template"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

func (a *commands) waitCmd() *cobra.Command {
	return app.Command("wait TASK...", "wait for the end of tasks, and print their exit codes", cobra.MinimumNArgs(1),
		func(ctx context.Context, args []string) error {
			var errs []error
			for _, id := range args { // in their order; one that is not there keeps none from being waited for
				exit, err := waitFor(ctx, a.client(), id, sayWaiting)
				if err == nil {
					err = a.PrintLine(exit, func(w io.Writer) { printable.Fprintln(w, exitText(exit)) })
				}
				if errs = append(errs, err); ctx.Err() != nil {
					break
				}
			}
			return app.Each(errs)
		})
}

func exitText(e *client.Exit) string {
	if !e.Known {
		return "unknown"
	}
	return fmt.Sprint(e.Code)
}

// statsLine is one sample of a task.
type statsLine struct {
	Task string  `json:"task"`
	CPU  float64 `json:"cpu_percent"` // of one processor, since the sample before
	client.Usage
}

// statsEvery is the time between two samples.
const statsEvery = time.Second

func (a *commands) statsCmd() *cobra.Command {
	var once bool
	f, format := filters{}, ""
	c := app.Command("stats [TASK...]", "show what tasks use, every second", cobra.ArbitraryArgs,
		func(ctx context.Context, args []string) error {
			t, err := parseFormat(format)
			if err != nil {
				return err
			}
			if format == "" {
				t = nil
			}
			before, err := a.client().AllStats(ctx)
			if err == nil {
				err = missing(before, args)
			}
			for err == nil {
				if !client.Pause(ctx, statsEvery) {
					return ctx.Err()
				}
				var now map[string]client.Usage
				if now, err = a.filteredStats(ctx, f); err == nil {
					err = a.printStats(statsOf(before, now, args), t)
				}
				if once {
					return err
				}
				before = now
			}
			return err
		})
	c.Flags().BoolVar(&once, "no-stream", false, "show one sample")
	c.Flags().FuncP("filter", "f", "show "+taskFilter, func(text string) error { return taskConditions.parse(text, f) })
	c.Flags().StringVar(&format, "format", "", formatUsage)
	return c
}

// filteredStats are those of the tasks for which filters hold now.
func (a *commands) filteredStats(ctx context.Context, f filters) (map[string]client.Usage, error) {
	c := a.client()
	now, err := c.AllStats(ctx)
	if err != nil || len(f) == 0 {
		return now, err
	}
	tasks, err := c.Tasks(ctx)
	if err == nil {
		err = checkFilters(ctx, c, tasks, f)
	}
	if err != nil {
		return nil, err
	}
	kept := map[string]client.Usage{}
	for _, t := range taskConditions.of(tasks, f) {
		if u, is := now[t.Spec.ID]; is {
			kept[t.Spec.ID] = u
		}
	}
	return kept, nil
}

// statsOf are the samples of tasks, all where none are named, in the order of their ids.
func statsOf(before, now map[string]client.Usage, ids []string) (out []statsLine) {
	for _, id := range slices.Sorted(maps.Keys(now)) {
		if len(ids) > 0 && !slices.Contains(ids, id) {
			continue
		}
		line := statsLine{Task: id, Usage: now[id]}
		if wall := now[id].At.Sub(before[id].At); wall > 0 && !before[id].At.IsZero() {
			line.CPU = 100 * float64(cpuTime(now[id])-cpuTime(before[id])) / float64(wall)
		}
		out = append(out, line)
	}
	return out
}

func cpuTime(u client.Usage) time.Duration { return u.UserTime + u.SysTime }

// missing is the error of a task that does not run.
func missing(now map[string]client.Usage, ids []string) error {
	for _, id := range ids {
		if _, there := now[id]; !there {
			return fmt.Errorf("task %s is not running", id)
		}
	}
	return nil
}

// clearScreen moves the cursor home and clears all.
const clearScreen = "\x1b[H\x1b[2J"

// statsJSON prints a line for each sample.
func (a *commands) statsJSON(lines []statsLine) error {
	for _, l := range lines {
		if err := a.PrintLine(l, nil); err != nil {
			return err
		}
	}
	return nil
}

// printStats draws anew on a terminal; by a template it prints a line for each sample.
func (a *commands) printStats(lines []statsLine, t *template.Template) error {
	if t != nil {
		for _, l := range lines {
			if err := a.printBy(t, l); err != nil {
				return err
			}
		}
		return nil
	}
	if a.JSON {
		return a.statsJSON(lines)
	}
	if term.IsTerminal(int(os.Stdout.Fd())) {
		if _, err := a.stream.Write([]byte(clearScreen)); err != nil {
			return err
		}
	}
	return a.PrintLine(nil, func(w io.Writer) {
		table(w, "TASK\tCPU %\tRSS\tSWAP\tPROCESSES\tNET IN / OUT", lines, func(l statsLine) []string {
			return []string{l.Task, fmt.Sprintf("%.1f", l.CPU), units.BytesSize(float64(l.RSS)),
				swap(l.Swap), fmt.Sprint(len(l.Procs)), traffic(l.Traffic)}
		})
	})
}

// swap is what a task has there, where the kernel tells.
func swap(bytes *uint64) string {
	if bytes == nil {
		return "-"
	}
	return units.BytesSize(float64(*bytes))
}
