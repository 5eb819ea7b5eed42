package host

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/freejail/freejail/policy"
)

// Metrics count what the policy decided since the daemon's start or upgrade.
type Metrics struct {
	mu       sync.Mutex
	allowed  uint64
	refused  uint64
	refusals map[refusal]uint64
}

type refusal struct {
	kind   policy.Kind
	source policy.Source
	denied bool
}

// Decided counts one decision about the start of a task.
func (m *Metrics) Decided(d policy.Decision) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d.Allowed {
		m.allowed++
		return
	}
	m.refused++
	if m.refusals == nil {
		m.refusals = map[refusal]uint64{}
	}
	for _, r := range d.Results {
		if !r.Allowed {
			m.refusals[refusal{r.Kind(), r.Request.Source, r.Denied}]++
		}
	}
}

// Write writes in Prometheus' text format, version 0.0.4.
func (m *Metrics) Write(w io.Writer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	head(w, "freejail_policy_decisions_total", "Starts of tasks that the policy decided about.", "counter")
	fmt.Fprintf(w, "freejail_policy_decisions_total{result=\"allowed\"} %d\n", m.allowed)
	fmt.Fprintf(w, "freejail_policy_decisions_total{result=\"refused\"} %d\n", m.refused)
	head(w, "freejail_policy_refused_requests_total", "Requests that starts were refused for.", "counter")
	for _, kind := range policy.Kinds() {
		for _, source := range []policy.Source{policy.FromImage, policy.FromJob, policy.FromHost} {
			for _, denied := range []bool{false, true} {
				if n := m.refusals[refusal{kind, source, denied}]; n > 0 {
					fmt.Fprintf(w, "freejail_policy_refused_requests_total{kind=%q,source=%q,denied=\"%t\"} %d\n",
						kind, source, denied, n)
				}
			}
		}
	}
}

func head(w io.Writer, name, help, kind string) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// Gauge writes one value that goes up and down.
func Gauge(w io.Writer, name, help string, v uint64) {
	head(w, name, help, "gauge")
	fmt.Fprintf(w, "%s %d\n", name, v)
}

// Counter writes one value that only grows.
func Counter(w io.Writer, name, help string, v uint64) {
	head(w, name, help, "counter")
	fmt.Fprintf(w, "%s %d\n", name, v)
}

// Gauges writes one value for each value of a label.
func Gauges[L ~string](w io.Writer, name, help, label string, values map[L]int) {
	each(w, name, help, "gauge", label, values)
}

// Counters writes one value that only grows for each value of a label.
func Counters[L ~string](w io.Writer, name, help, label string, values map[L]uint64) {
	each(w, name, help, "counter", label, values)
}

func each[L ~string, N int | uint64](w io.Writer, name, help, kind, label string, values map[L]N) {
	head(w, name, help, kind)
	for _, l := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(w, "%s{%s=%q} %d\n", name, label, l, values[l])
	}
}
