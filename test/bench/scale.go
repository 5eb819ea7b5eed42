package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// atOnce is how many tasks are started or ended side by side.
const atOnce = 20

// tasksVariable is how many tasks the part scale has run at last, 1,000 by default; churnVariable how many it then
// starts and ends, ten times as many by default.
const tasksVariable, churnVariable = "BENCH_TASKS", "BENCH_CHURN"

// counted is a number that a variable of the environment sets.
func counted(variable string, otherwise int) (int, error) {
	text := os.Getenv(variable)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err == nil && n < 1 {
		err = errors.New("less than 1")
	}
	if err != nil {
		return 0, fmt.Errorf("%s=%q: %w", variable, text, err)
	}
	return n, nil
}

// manyTasks are how many tasks run at last, and how many are then started and ended.
func manyTasks() (last, churn int, err error) {
	if last, err = counted(tasksVariable, 1000); err == nil {
		churn, err = counted(churnVariable, 10*last)
	}
	return last, churn, err
}

// grows is what a host with n tasks was measured to take, for each n.
type grows struct {
	what string
	run  func() (time.Duration, error)
	// rounds are of which the median is told.
	rounds int
	// most is how many times the first value the last may be; 0 is for what may grow as the number of tasks does, and
	// anything below for what is not freejail's.
	most  float64
	steps bool // those of its starts are told too
	took  []time.Duration
}

// memoryTarget is what a task may take of the daemon's memory, in KiB.
const memoryTarget = 8

// scale measures one host with more and more tasks: what a start takes among them, what is asked of all of them, and
// what comes over all of them.
func (b *bench) scale(ctx context.Context) error {
	last, churn, err := manyTasks()
	if err != nil {
		return err
	}
	levels := levelsTo(last)
	n := 0
	id := func() string { n++; return fmt.Sprintf("x%d-%d", os.Getpid(), n) }
	timed := func(f func() error) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			begin := time.Now()
			err := f()
			return time.Since(begin), err
		}
	}
	sampled := func(f func() error) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			time.Sleep(time.Second) // what was measured just before serves several
			return timed(f)()
		}
	}
	others, err := b.alternatives(ctx)
	if err != nil {
		return err
	}
	rows := []*grows{
		{what: "a start, until its process runs", most: 1.3, rounds: rounds, steps: true,
			run: func() (time.Duration, error) { return b.start(ctx, id(), sleepArgs) }},
		{what: "a whole task", most: 1.3, rounds: rounds,
			run: func() (time.Duration, error) { return b.startAndWait(ctx, client.TaskSpec{ID: id()}) }},
	}
	for _, c := range others.toRunning {
		rows = append(rows, &grows{what: "  " + c.name, most: -1, rounds: 11, run: c.run})
	}
	rows = append(rows, []*grows{
		{what: "ps", rounds: 9, run: timed(func() error { _, err := b.daemon.Tasks(ctx); return err })},
		{what: "stats of all", rounds: 5, run: sampled(func() error { _, err := b.daemon.AllStats(ctx); return err })},
		{what: "metrics", rounds: 5, run: sampled(func() error { return b.daemon.Metrics(ctx, io.Discard) })},
		{what: "reload of the policy", rounds: 5,
			run: timed(func() error { _, err := b.daemon.Reload(ctx); return err })},
		{what: "gc", rounds: 3,
			run: timed(func() error { _, err := b.daemon.GC(ctx, client.GCRequest{}); return err })},
		{what: "upgrade of the daemon", rounds: 3,
			run: timed(func() error { _, err := b.daemon.Upgrade(ctx, client.UpgradeRequest{}); return err })},
		{what: "the daemon killed, until a new one has all tasks", rounds: 3,
			run: func() (time.Duration, error) { return b.killed(ctx) }},
	}...)
	fmt.Printf("\nOne host with many tasks, %d started at once\n", atOnce)
	var first footprint
	var kept []string
	steps := map[string][]time.Duration{}
	for i, level := range levels {
		begin := time.Now()
		before := len(kept)
		for range level - len(kept) {
			kept = append(kept, fmt.Sprintf("s%d-%d", os.Getpid(), len(kept)))
		}
		if err := sideBySide(kept[before:], func(id string) error {
			_, err := b.daemon.Start(ctx, client.TaskSpec{ID: id, Owner: "cli", Image: "bench", Entrypoint: sleepArgs})
			return err
		}); err != nil {
			return err
		}
		took := time.Since(begin) / time.Duration(level-before)
		if err := b.allRun(ctx, level); err != nil {
			return err
		}
		now, err := b.sample(ctx)
		if err != nil {
			return err
		}
		own, err := processes(ctx, programIs(os.Getenv("FREEJAIL_BIN")))
		if err != nil {
			return err
		}
		fmt.Printf("  %5d tasks: %s for each of the last %d; the daemon: %s of heap and stacks, %s resident, "+
			"%d process(es): %s\n", level, round(took), level-before, mib(now.heap), mib(now.rss), len(own),
			verdict(float64(len(own)), 1))
		if i == 0 {
			first = now
		} else {
			n, kib := level-levels[0], each(first.heap, now.heap, level-levels[0])
			fmt.Printf("    %.1f KiB for each of %d tasks after the first %d: %s; %.1f KiB resident\n", kib, n,
				levels[0], verdict(kib, memoryTarget), each(first.rss, now.rss, n))
		}
		for _, r := range rows {
			if err := b.measureRow(ctx, r, steps); err != nil {
				return fmt.Errorf("%s, %d tasks: %w", r.what, level, err)
			}
		}
		if i == len(levels)-1 {
			err = b.churn(ctx, churn, id)
		}
		if err = errors.Join(err, b.allRun(ctx, level)); err != nil {
			return err
		}
	}
	printGrowth(levels, append(rows, stepRows(levels, steps)...))
	begin := time.Now()
	if err := sideBySide(kept, func(id string) error { return b.daemon.Destroy(ctx, id, true) }); err != nil {
		return err
	}
	fmt.Printf("  the end of all: %s each\n", round(time.Since(begin)/time.Duration(len(kept))))
	return nil
}

// levelsTo are the numbers of tasks that are measured.
func levelsTo(last int) []int {
	levels := []int{10}
	for _, n := range []int{100, 300, 1000, last} {
		if n <= last && n > levels[len(levels)-1] {
			levels = append(levels, n)
		}
	}
	return levels
}

// measureRow adds what a row takes now, and to steps what the steps of its starts do on average.
func (b *bench) measureRow(ctx context.Context, r *grows, steps map[string][]time.Duration) error {
	before, err := b.steps(ctx)
	if err != nil {
		return err
	}
	took := make([]time.Duration, r.rounds)
	for k := range took {
		if took[k], err = r.run(); err != nil {
			return err
		}
	}
	r.took = append(r.took, median(took))
	if !r.steps {
		return nil
	}
	after, err := b.steps(ctx)
	for name, s := range after {
		if n := s.count - before[name].count; n > 0 {
			steps[name] = append(steps[name], time.Duration((s.sum-before[name].sum)/n*1e9))
		}
	}
	return err
}

// stepTimes are how many starts took a step, and how many seconds together.
type stepTimes struct{ sum, count float64 }

// steps are those of all starts of the daemon, as its metrics tell them.
func (b *bench) steps(ctx context.Context) (map[string]stepTimes, error) {
	var text strings.Builder
	if err := b.daemon.Metrics(ctx, &text); err != nil {
		return nil, err
	}
	out := map[string]stepTimes{}
	for line := range strings.Lines(text.String()) {
		rest, is := strings.CutPrefix(line, "freejail_start_step_duration_seconds_")
		if !is || !strings.Contains(rest, `result="ok"`) {
			continue
		}
		kind, rest, _ := strings.Cut(rest, "{")
		labels, value, _ := strings.Cut(rest, "} ")
		_, name, _ := strings.Cut(labels, `step="`)
		name, _, _ = strings.Cut(name, `"`)
		v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		s := out[name]
		switch kind {
		case "sum":
			s.sum = v
		case "count":
			s.count = v
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("the metric %q: %w", line, err)
		}
		out[name] = s
	}
	return out, nil
}

// stepRows are the steps that were measured for each number of tasks.
func stepRows(levels []int, steps map[string][]time.Duration) (rows []*grows) {
	for _, name := range slices.Sorted(maps.Keys(steps)) {
		if took := steps[name]; len(took) == len(levels) {
			rows = append(rows, &grows{what: "step " + name + " of a start (mean)", most: -1, took: took})
		}
	}
	return rows
}

// printGrowth tells of each row its values and whether they grow as they may.
func printGrowth(levels []int, rows []*grows) {
	fmt.Printf("\n  %-58s", "tasks")
	for _, n := range levels {
		fmt.Printf(" %10d", n)
	}
	fmt.Printf("   last to first\n")
	for _, r := range rows {
		fmt.Printf("  %-58s", r.what)
		for _, took := range r.took {
			fmt.Printf(" %10s", round(took))
		}
		ratio := float64(r.took[len(r.took)-1]) / float64(r.took[0])
		switch {
		case r.most < 0:
			fmt.Printf("   %5.2f\n", ratio)
		case r.most == 0:
			fmt.Printf("   %5.2f, %s\n", ratio, verdict(ratio, float64(levels[len(levels)-1])/float64(levels[0])))
		default:
			fmt.Printf("   %5.2f, %s\n", ratio, verdict(ratio, r.most))
		}
	}
}

// verdict says of a value whether it is at most its target.
func verdict(value, most float64) string {
	if value <= most {
		return fmt.Sprintf("target %g: met", most)
	}
	return fmt.Sprintf("target %g: NOT met", most)
}

// churn starts and ends tasks among those that run, and tells what the daemon holds after.
func (b *bench) churn(ctx context.Context, n int, id func() string) error {
	before, err := b.sample(ctx)
	if err != nil {
		return err
	}
	ids := make([]string, n)
	for i := range ids {
		ids[i] = id()
	}
	var mu sync.Mutex
	var took []time.Duration
	begin := time.Now()
	if err := sideBySide(ids, func(id string) error {
		d, err := b.startAndWait(ctx, client.TaskSpec{ID: id})
		mu.Lock()
		defer mu.Unlock()
		took = append(took, d)
		return err
	}); err != nil {
		return err
	}
	all := time.Since(begin)
	after, err := b.sample(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("  %d starts and ends, %d at once: %s each, median %s, longest %s; the daemon's heap %s before, "+
		"%s after; resident %s, %s\n",
		n, atOnce, round(all/time.Duration(n)), round(median(took)), round(slices.Max(took)),
		mib(before.heap), mib(after.heap), mib(before.rss), mib(after.rss))
	return nil
}

// killed is a kill of the daemon and the time until the next one tells of all tasks.
func (b *bench) killed(ctx context.Context) (time.Duration, error) {
	tasks, err := b.daemon.Tasks(ctx)
	if err != nil {
		return 0, err
	}
	if err := b.cmd.Process.Kill(); err != nil {
		return 0, err
	}
	_ = b.cmd.Wait() // killed
	begin := time.Now()
	if err := b.startDaemon(ctx); err != nil {
		return 0, err
	}
	err = b.allRun(ctx, len(tasks))
	return time.Since(begin), err
}

// sideBySide does something to each, some at once; the first error ends it.
func sideBySide(ids []string, do func(id string) error) error {
	todo := make(chan string, len(ids))
	for _, id := range ids {
		todo <- id
	}
	close(todo)
	errs := make(chan error, atOnce)
	for range atOnce {
		go func() {
			for id := range todo {
				if err := do(id); err != nil {
					errs <- fmt.Errorf("%s: %w", id, err)
					return
				}
			}
			errs <- nil
		}()
	}
	var all error
	for range atOnce {
		all = errors.Join(all, <-errs)
	}
	return all
}
