package daemon

import (
	"io"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
)

// WriteMetrics writes in Prometheus' text format, version 0.0.4.
func (d *Daemon) WriteMetrics(w io.Writer) {
	d.metrics.Write(w)
	host.Counter(w, "freejail_policy_reload_errors_total", "Readings of the policy's file that failed.",
		d.follower.Failures())
	var faulty uint64
	if _, err := d.follower.Last(); err != nil {
		faulty = 1
	}
	host.Gauge(w, "freejail_policy_faulty", "1 while the policy's file has a mistake and an older policy is in force.",
		faulty)
	states := map[client.State]int{client.Starting: 0, client.Running: 0, client.Stopping: 0, client.Exited: 0,
		client.Left: 0}
	for _, t := range d.tasks.Tasks() {
		states[t.State]++
	}
	stuck := len(d.tasks.Troubles())
	for _, s := range d.openStores() {
		stuck += len(s.Leftovers())
	}
	host.Gauge(w, "freejail_leftovers", "Ended tasks and unpacked images of which something could not be removed yet.",
		uint64(stuck))
	host.Gauges(w, "freejail_tasks", "Tasks that the daemon knows.", "state", states)
	host.Gauge(w, "freejail_devfs_rulesets", "devfs rulesets that the daemon has made.", uint64(len(d.rulesets.List())))
	d.writeNFS(w)
	d.writeNetworks(w)
	if list, err := d.ledger.Approvals(); err == nil {
		host.Gauge(w, "freejail_policy_approvals", "Approvals that were not revoked.", uint64(len(list)))
	}
	host.Gauge(w, "freejail_daemon_memory_bytes", "The daemon's heap in use.", memoryInUse())
}
