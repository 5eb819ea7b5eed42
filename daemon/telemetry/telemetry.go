// Package telemetry counts and times what the daemon does, and answers those who scrape that.
package telemetry

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/spans"
	"github.com/freejail/freejail/policy"
)

// Timed is something that takes a while.
type Timed struct {
	kind int
	step string // of a start
}

// What is timed.
var (
	Start    = Timed{kind: start}
	Decision = Timed{kind: decision}
	Pull     = Timed{kind: pull}
	Unpack   = Timed{kind: unpack}
)

// Step is a step of a start, by its name.
func Step(name string) Timed { return Timed{kind: step, step: name} }

// String names it.
func (t Timed) String() string {
	if t.kind == step {
		return "step " + t.step
	}
	return [kinds]string{start: "start", decision: "policy decision", pull: "pull", unpack: "unpack"}[t.kind]
}

const (
	start = iota
	step
	decision
	pull
	unpack
	kinds
)

// The bounds of histograms, in seconds: a decision takes a part of a millisecond, a pull minutes.
var (
	quick = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}
	usual = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	long  = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 150, 300, 600}
)

// Recorder has what was counted since the daemon's start or upgrade. A nil one counts nothing.
type Recorder struct {
	*prometheus.Registry
	timed     [kinds]*prometheus.HistogramVec
	decisions *prometheus.CounterVec
	refusals  *prometheus.CounterVec
	signed    *prometheus.CounterVec
	events    *prometheus.CounterVec
	exits     *prometheus.CounterVec
	journals  *prometheus.CounterVec
	leftovers *prometheus.CounterVec
	cleanups  prometheus.Counter
	reused    prometheus.Counter
	starts    *starts
	// Spans are where what is timed is sent too; nil is nowhere.
	Spans *spans.Exporter
}

// New counts for a daemon of a version.
func New(version string) *Recorder {
	r := &Recorder{Registry: prometheus.NewRegistry(), starts: newStarts()}
	for i, h := range [kinds]struct {
		name, help string
		bounds     []float64
		labels     []string
	}{
		start:    {"start", "How long starts of tasks took, pull and unpacking included.", long, []string{"result"}},
		step:     {"start_step", "How long the steps of starts took.", usual, []string{"step", "result"}},
		decision: {"policy_decision", "How long decisions of the policy took.", quick, []string{"result"}},
		pull:     {"pull", "How long pulls of images took.", long, []string{"result"}},
		unpack:   {"unpack", "How long it took to unpack images.", long, []string{"result"}},
	} {
		r.timed[i] = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "freejail_" + h.name +
			"_duration_seconds", Help: h.help, Buckets: h.bounds}, h.labels)
		r.MustRegister(r.timed[i])
	}
	r.decisions = r.counters("policy_decisions_total", "Starts of tasks that the policy decided about.", "result")
	r.refusals = r.counters("policy_refused_requests_total", "Requests that starts were refused for.", "kind", "source",
		"denied")
	r.signed = r.counters("policy_signed_approvals_total", "Signed approvals beside images: those that a start was "+
		"permitted by, and those that did not count where one was refused.", "approver", "result")
	r.events = r.counters("events_total", "Events, by their kind.", "kind")
	r.exits = r.counters("task_exits_total", "Ends of tasks, by their reason.", "reason")
	r.journals = r.counters("journal_replays_total", "Journals of tasks that the daemon has read as it started.",
		"result")
	r.leftovers = r.counters("leftovers_removed_total", "What was left of tasks and is removed: at another attempt, "+
		"or as no journal told of it.", "found")
	r.cleanups = prometheus.NewCounter(prometheus.CounterOpts{Name: "freejail_cleanup_failures_total",
		Help: "Attempts to remove what an ended task has on the host that failed."})
	r.reused = prometheus.NewCounter(prometheus.CounterOpts{Name: "freejail_pull_reused_bytes_total",
		Help: "Bytes of layers that pulls did not fetch, as other layers of the host had them."})
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "freejail_build_info",
		Help: "1, with the daemon's version.",
		ConstLabels: prometheus.Labels{"version": Label(version), "goversion": runtime.Version(), "os": runtime.GOOS,
			"arch": runtime.GOARCH}})
	build.Set(1)
	r.MustRegister(r.cleanups, r.reused, build, r.starts)
	r.zero()
	return r
}

func (r *Recorder) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "freejail_" + name, Help: help}, labels)
	r.MustRegister(c)
	return c
}

// zero has counters begin at 0: of one that begins at 1 nobody sees that it grew.
func (r *Recorder) zero() {
	for vec, values := range map[*prometheus.CounterVec][]string{r.decisions: {"allowed", "refused"},
		r.events: client.EventKinds, r.exits: exitReasons, r.journals: {"read", "incomplete", "damaged"},
		r.leftovers: {"retry", "stray"}} {
		for _, v := range values {
			vec.WithLabelValues(v)
		}
	}
}

// Label is a text as the value of a label: what is not UTF-8 would spoil all that is told.
func Label(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// Begin begins something that is timed, with attributes of its span as keys and values. What it returns ends it, with
// its error or nil.
func (r *Recorder) Begin(ctx context.Context, what Timed, attributes ...string) (context.Context, func(error)) {
	if r == nil {
		return ctx, func(error) {}
	}
	began := time.Now()
	ctx, end := r.Spans.Begin(ctx, what.String(), attributes...)
	return ctx, func(err error) {
		end(err)
		labels := []string{result(ctx, err)}
		if what.kind == step {
			labels = []string{what.step, labels[0]}
		}
		r.timed[what.kind].WithLabelValues(labels...).Observe(time.Since(began).Seconds())
	}
}

// Reused counts bytes of layers that a pull took from others.
func (r *Recorder) Reused(n int64) {
	if r != nil {
		r.reused.Add(float64(n))
	}
}

func result(ctx context.Context, err error) string {
	switch {
	case err == nil:
		return "ok"
	case client.IsRefused(err):
		return "refused"
	case ctx.Err() != nil, errors.Is(err, context.Canceled):
		return "canceled"
	}
	return "failed"
}

// Decided counts one decision about the start of a task.
func (r *Recorder) Decided(d policy.Decision) {
	switch {
	case r == nil:
	case d.Allowed:
		r.decisions.WithLabelValues("allowed").Inc()
	default:
		r.decisions.WithLabelValues("refused").Inc()
		for _, one := range d.Results {
			if !one.Allowed {
				r.refusals.WithLabelValues(string(one.Kind()), string(one.Request.Source),
					strconv.FormatBool(one.Denied)).Inc()
			}
		}
	}
}

// Approver has what is counted of one begin at 0.
func (r *Recorder) Approver(name string) {
	if r != nil {
		r.signed.WithLabelValues(Label(name), "honoured")
		r.signed.WithLabelValues(Label(name), "refused")
	}
}

// Approved counts that an approval by an approver permitted a start, or did not count.
func (r *Recorder) Approved(approver string, honoured bool) {
	if r == nil {
		return
	}
	result := "refused"
	if honoured {
		result = "honoured"
	}
	r.signed.WithLabelValues(Label(approver), result).Inc()
}

// Told counts an event.
func (r *Recorder) Told(kind string) {
	if r != nil {
		r.events.WithLabelValues(kind).Inc()
	}
}

var exitReasons = []string{"success", "code", "signal", "memory", "disk", "host", "unknown"}

// Ended counts the end of a task.
func (r *Recorder) Ended(e client.Exit) {
	if r == nil {
		return
	}
	reason := "code"
	switch {
	case e.Host:
		reason = "host"
	case e.Disk:
		reason = "disk"
	case e.OOM:
		reason = "memory"
	case !e.Known:
		reason = "unknown"
	case e.Signal != 0:
		reason = "signal"
	case e.Code == 0:
		reason = "success"
	}
	r.exits.WithLabelValues(reason).Inc()
}

// Replayed counts a journal that was read, was incomplete (nothing of its start was done) or damaged.
func (r *Recorder) Replayed(result string) {
	if r != nil {
		r.journals.WithLabelValues(result).Inc()
	}
}

// Swept counts an attempt to remove what a task has on the host: found is "retry" where an earlier one failed, "stray"
// of what no journal told of, and empty otherwise.
func (r *Recorder) Swept(found string, err error) {
	switch {
	case r == nil:
	case err != nil:
		r.cleanups.Inc()
	case found != "":
		r.leftovers.WithLabelValues(found).Inc()
	}
}
