package daemon

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/policy"
)

// metrics count since the daemon's start or upgrade.
type metrics struct {
	mu           sync.Mutex
	allowed      uint64
	refused      uint64
	refusals     map[refusal]uint64
	reloadErrors uint64
}

type refusal struct {
	kind   policy.Kind
	source policy.Source
	denied bool
}

func (m *metrics) decided(d policy.Decision) {
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
			m.refusals[refusal{r.Kind, r.Request.Source, r.Denied}]++
		}
	}
}

func (m *metrics) reloadFailed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reloadErrors++
}

// handleMetrics answers in Prometheus' text format, version 0.0.4.
func (d *Daemon) handleMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	d.metrics.write(w)
	_, perr := d.policy.get()
	gauge(w, "freejail_policy_faulty", "1 while the policy's file has a mistake and an older policy is in force.", flag(perr != nil))
	states := map[client.State]int{client.Starting: 0, client.Running: 0, client.Stopping: 0, client.Exited: 0, client.Left: 0}
	stuck := 0
	for _, t := range d.all() {
		i := d.describeTask(t)
		states[i.State]++
		stuck += int(flag(t.troubled() != ""))
	}
	for _, s := range d.openStores() {
		stuck += len(s.Leftovers())
	}
	gauge(w, "freejail_leftovers", "Ended tasks and unpacked images of which something could not be removed yet.", stuck)
	fmt.Fprintf(w, "# HELP freejail_tasks Tasks that the daemon knows.\n# TYPE freejail_tasks gauge\n")
	for _, s := range slices.Sorted(maps.Keys(states)) {
		fmt.Fprintf(w, "freejail_tasks{state=%q} %d\n", s, states[s])
	}
	gauge(w, "freejail_devfs_rulesets", "devfs rulesets that the daemon has made.", len(d.rulesets.List()))
	d.writeNFS(w)
	if list, err := d.approvals(); err == nil {
		gauge(w, "freejail_policy_approvals", "Approvals that were not revoked.", len(list))
	}
	gauge(w, "freejail_daemon_memory_bytes", "The daemon's heap in use.", memoryInUse())
}

func (m *metrics) write(w io.Writer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprintf(w, "# HELP freejail_policy_decisions_total Starts of tasks that the policy decided about.\n# TYPE freejail_policy_decisions_total counter\n")
	fmt.Fprintf(w, "freejail_policy_decisions_total{result=\"allowed\"} %d\nfreejail_policy_decisions_total{result=\"refused\"} %d\n", m.allowed, m.refused)
	fmt.Fprintf(w, "# HELP freejail_policy_refused_requests_total Requests that starts were refused for.\n# TYPE freejail_policy_refused_requests_total counter\n")
	for _, kind := range policy.Kinds {
		for _, source := range []policy.Source{policy.FromImage, policy.FromJob, policy.FromHost} {
			for _, denied := range []bool{false, true} {
				if n := m.refusals[refusal{kind, source, denied}]; n > 0 {
					fmt.Fprintf(w, "freejail_policy_refused_requests_total{kind=%q,source=%q,denied=\"%t\"} %d\n", kind, source, denied, n)
				}
			}
		}
	}
	fmt.Fprintf(w, "# HELP freejail_policy_reload_errors_total Readings of the policy's file that failed.\n# TYPE freejail_policy_reload_errors_total counter\n")
	fmt.Fprintf(w, "freejail_policy_reload_errors_total %d\n", m.reloadErrors)
}

func gauge[T int | uint64](w io.Writer, name, help string, v T) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s gauge\n%s %d\n", name, help, name, name, v)
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
