package daemon

import (
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/telemetry"
)

// family is a metric that is looked up when somebody asks.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

var families []family

func gauge(name, help string, labels ...string) family {
	return newFamily(prometheus.GaugeValue, name, help, labels)
}

func counter(name, help string, labels ...string) family {
	return newFamily(prometheus.CounterValue, name, help, labels)
}

// ofTask are the labels of a task: its id on this host, and what its job calls it; empty where it is not Nomad's.
var ofTask = []string{"task", "namespace", "job", "group", "name"}

func newFamily(kind prometheus.ValueType, name, help string, labels []string) family {
	f := family{prometheus.NewDesc("freejail_"+name, help, labels, nil), kind}
	families = append(families, f)
	return f
}

// metric has all of them.
var metric = struct {
	reloadErrors, policyFaulty, approvals, revocations, current, leftovers, tasksByState, rulesets, nfsMounts,
	recovering, daemonMemory, daemonLive, goroutines, networkSize, networkUsed, networkFaulty, sockets, socketsMost,
	connections, flows, drops, taskInfo, taskStarted, taskCPU, taskMemory, taskMemoryMax, taskSwap, taskProcesses,
	taskDisk, taskDiskMax, taskUnhealthy, taskBytesIn, taskBytesOut, taskPacketsIn, taskPacketsOut family
}{
	reloadErrors: counter("policy_reload_errors_total", "Readings of the policy's file that failed."),
	policyFaulty: gauge("policy_faulty",
		"1 while the policy's file has a mistake and an older policy is in force."),
	approvals: gauge("policy_approvals", "Approvals that were not revoked."),
	revocations: gauge("policy_revocations_issued_time_seconds",
		"The date of an approver's list of revocations, in Unix time; without a list there is none.", "approver"),
	current: gauge("policy_revocations_current", "1 while an approver's list of revocations is current.", "approver"),
	leftovers: gauge("leftovers",
		"Ended tasks and unpacked images of which something could not be removed yet."),
	tasksByState: gauge("tasks", "Tasks that the daemon knows.", "state"),
	rulesets:     gauge("devfs_rulesets", "devfs rulesets that the daemon has made."),
	nfsMounts:    gauge("nfs_mounts", "Mounts of images' roots over NFS.", "health"),
	recovering:   gauge("daemon_recovering", "1 while the daemon takes over the tasks of the one before."),
	daemonMemory: gauge("daemon_memory_bytes", "The daemon's heap and stacks in use."),
	daemonLive: gauge("daemon_memory_live_bytes",
		"What the last collection of garbage found in use of the daemon's heap, and its stacks."),
	goroutines: gauge("daemon_goroutines", "What the daemon does or waits for at the same time."),

	networkSize: gauge("network_addresses", "Addresses that tasks of a network can have, of its smaller pool.",
		"network"),
	networkUsed:   gauge("network_addresses_used", "Addresses that are in use.", "network"),
	networkFaulty: gauge("network_faulty", "1 while tasks cannot have a network.", "network"),
	sockets:       gauge("published_sockets", "Sockets that hold published ports."),
	socketsMost:   gauge("published_sockets_max", "How many there can be."),
	connections:   gauge("forwarded_connections", "TCP connections that the daemon forwards itself."),
	flows:         gauge("forwarded_flows", "UDP flows that the daemon forwards itself."),
	drops:         counter("forward_drops_total", "Connections and datagrams dropped as there were too many."),

	taskInfo: gauge("task_info", "1 for a task that runs, with its image and allocation.",
		append(ofTask[:len(ofTask):len(ofTask)], "image", "digest", "alloc_id", "network")...),
	taskStarted:   gauge("task_start_time_seconds", "When a task was started, in Unix time.", ofTask...),
	taskCPU:       counter("task_cpu_seconds_total", "CPU time of a task.", append([]string{"mode"}, ofTask...)...),
	taskMemory:    gauge("task_memory_bytes", "Resident memory of a task's processes.", ofTask...),
	taskMemoryMax: gauge("task_memory_limit_bytes", "The memory limit of a task that has one.", ofTask...),
	taskSwap:      gauge("task_swap_bytes", "What a task has in swap, where the kernel tells.", ofTask...),
	taskProcesses: gauge("task_processes", "Processes of a task.", ofTask...),
	taskDisk: gauge("task_disk_written_bytes",
		"What a task has written to its root, where that is measured.", ofTask...),
	taskDiskMax:   gauge("task_disk_limit_bytes", "The disk limit of a task that has one.", ofTask...),
	taskUnhealthy: gauge("task_unhealthy", "1 while something is wrong with the root of a task.", ofTask...),

	taskBytesIn:    traffic("receive_bytes", "Bytes that a task received"),
	taskBytesOut:   traffic("transmit_bytes", "Bytes that a task sent"),
	taskPacketsIn:  traffic("receive_packets", "Packets that a task received"),
	taskPacketsOut: traffic("transmit_packets", "Packets that a task sent"),
}

func traffic(name, help string) family {
	return counter("task_network_"+name+"_total", help+
		" by its own network stack; of tasks that share one, the first has it.", ofTask...)
}

// openMetrics has what is looked up told with what is counted.
func (d *Daemon) openMetrics() {
	d.record.MustRegister(&lookup{d: d, cpu: map[string]cpuTime{}})
	d.scrapes = telemetry.NewListener(d.cfg.Metrics, d.record, d.log.Named("metrics"),
		func(message string) { d.event("metrics", message) })
}

// Metrics answers in Prometheus' formats.
func (d *Daemon) Metrics() http.Handler { return d.record.Handler(d.log.Named("metrics"), 0) }

func (d *Daemon) checkMetrics(c *host.Checks) {
	switch m := d.cfg.Metrics; {
	case !m.Listen.IsValid():
	case d.scrapes.Problem() != "":
		c.Bad("metrics", d.scrapes.Problem(), "fix the metrics block of "+d.cfg.Path+
			", then: freejail daemon --upgrade")
	default:
		c.OK("metrics", "scrapes are answered at "+m.Listen.String())
	}
}

// lookup looks the host's state up for each scrape.
type lookup struct {
	d   *Daemon
	mu  sync.Mutex
	cpu map[string]cpuTime // by the keys of tasks that run
}

// Describe is a [prometheus.Collector]'s.
func (*lookup) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range families {
		ch <- f.desc
	}
}

// Collect is a [prometheus.Collector]'s.
func (l *lookup) Collect(ch chan<- prometheus.Metric) {
	s := sink(ch)
	l.policy(s)
	l.host(s)
	l.networks(s)
	l.tasks(s)
}

// sink takes values.
type sink chan<- prometheus.Metric

func (s sink) put(f family, v float64, labels ...string) {
	for i := range labels {
		labels[i] = telemetry.Label(labels[i])
	}
	s <- prometheus.MustNewConstMetric(f.desc, f.kind, v, labels...)
}

func (s sink) truth(f family, is bool, labels ...string) {
	v := 0.0
	if is {
		v = 1
	}
	s.put(f, v, labels...)
}

func (l *lookup) policy(s sink) {
	s.put(metric.reloadErrors, float64(l.d.follower.Failures()))
	now, err := l.d.follower.Last()
	s.truth(metric.policyFaulty, err != nil)
	l.approvers(s, now)
	if list, err := l.d.ledger.Approvals(); err == nil {
		s.put(metric.approvals, float64(len(list)))
	}
}

func (l *lookup) approvers(s sink, now *host.InForce) {
	for _, who := range now.Approvers {
		l.d.record.Approver(who.Name)
		if who.From == "" {
			continue
		}
		st := l.d.lists.State(who.Source)
		s.truth(metric.current, who.Current(st, time.Now()) == nil, who.Name)
		if st.List != nil {
			s.put(metric.revocations, float64(st.List.Issued.Unix()), who.Name)
		}
	}
}

func (l *lookup) host(s sink) {
	stuck := len(l.d.tasks.Troubles())
	for _, store := range l.d.openStores() {
		stuck += len(store.Leftovers())
	}
	s.put(metric.leftovers, float64(stuck))
	s.put(metric.rulesets, float64(len(l.d.rulesets.List())))
	s.truth(metric.recovering, l.d.tasks.Progress() != "")
	memory, live := memoryInUse()
	s.put(metric.daemonMemory, float64(memory))
	s.put(metric.daemonLive, float64(live))
	s.put(metric.goroutines, float64(runtime.NumGoroutine()))
	health := map[string]float64{"healthy": 0, "away": 0, "stale": 0, "refused": 0, "error": 0}
	for _, m := range l.d.nfs.List() {
		if m.Health.OK() {
			health["healthy"]++
		} else {
			health[m.Health.Fault]++
		}
	}
	for h, n := range health {
		s.put(metric.nfsMounts, n, h)
	}
}

func (l *lookup) networks(s sink) {
	used, size, faulty := map[string]int{}, map[string]int{}, map[string]bool{}
	for _, n := range l.d.networks.List() {
		used[n.Name], size[n.Name], faulty[n.Name] = used[n.Name]+n.Used, n.Size, n.Problem != ""
	}
	for name := range size {
		s.put(metric.networkSize, float64(size[name]), name)
		s.put(metric.networkUsed, float64(used[name]), name)
		s.truth(metric.networkFaulty, faulty[name], name)
	}
	p := l.d.networks.Ports()
	s.put(metric.sockets, float64(p.Sockets))
	s.put(metric.socketsMost, float64(p.Most))
	s.put(metric.connections, float64(p.Connections))
	s.put(metric.flows, float64(p.Flows))
	s.put(metric.drops, float64(p.Drops))
}

func (l *lookup) tasks(s sink) {
	states := map[client.State]float64{client.Starting: 0, client.Running: 0, client.Stopping: 0, client.Exited: 0,
		client.Left: 0}
	usage, err := l.d.tasks.AllUsage()
	if err != nil {
		l.d.log.Warn("the use of tasks cannot be told", "error", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	before, links := l.cpu, map[string]bool{}
	l.cpu = map[string]cpuTime{}
	for _, t := range l.d.tasks.Tasks() {
		states[t.State]++
		if t.State != client.Running && t.State != client.Stopping {
			continue
		}
		labels := append([]string{t.ID}, telemetry.Names(t.Spec)...)
		l.d.record.Runs(t.Spec)
		s.task(t, labels)
		if u, ok := usage[t.ID]; ok {
			l.cpu[t.Key] = before[t.Key].then(u)
			s.usage(u, l.cpu[t.Key], labels)
			if t.Network != nil && !links[t.Network.Link] && u.Traffic != nil {
				links[t.Network.Link] = true
				s.traffic(*u.Traffic, labels)
			}
		}
	}
	for state, n := range states {
		s.put(metric.tasksByState, n, string(state))
	}
}

func (s sink) task(t client.Task, labels []string) {
	network := networkOf(t)
	info := append(labels[:len(labels):len(labels)], t.Spec.Image, t.Digest, t.Spec.NomadLabels()["alloc_id"], network)
	s.put(metric.taskInfo, 1, info...)
	s.put(metric.taskStarted, float64(t.StartedAt.UnixMilli())/1000, labels...)
	s.truth(metric.taskUnhealthy, t.Unhealthy != "", labels...)
	for f, n := range map[family]int64{metric.taskMemoryMax: t.Spec.Limits.MemoryBytes, metric.taskDisk: t.Written,
		metric.taskDiskMax: t.Spec.Limits.DiskBytes} {
		if n > 0 {
			s.put(f, float64(n), labels...)
		}
	}
}

func (s sink) usage(u client.Usage, cpu cpuTime, labels []string) {
	s.put(metric.taskCPU, cpu.user.total().Seconds(), append([]string{"user"}, labels...)...)
	s.put(metric.taskCPU, cpu.system.total().Seconds(), append([]string{"system"}, labels...)...)
	s.put(metric.taskMemory, float64(u.RSS), labels...)
	s.put(metric.taskProcesses, float64(len(u.Procs)), labels...)
	if u.Swap != nil {
		s.put(metric.taskSwap, float64(*u.Swap), labels...)
	}
}

func (s sink) traffic(t client.Traffic, labels []string) {
	s.put(metric.taskBytesIn, float64(t.BytesIn), labels...)
	s.put(metric.taskBytesOut, float64(t.BytesOut), labels...)
	s.put(metric.taskPacketsIn, float64(t.PacketsIn), labels...)
	s.put(metric.taskPacketsOut, float64(t.PacketsOut), labels...)
}

// cpuTime is the CPU time of a task.
type cpuTime struct{ user, system growing }

func (c cpuTime) then(u client.Usage) cpuTime {
	return cpuTime{c.user.then(u.UserTime), c.system.then(u.SysTime)}
}

// growing is a sum over processes that does not fall when one of them ends whose time the kernel adds to nobody's: of a
// counter that falls Prometheus takes all that is left for new.
type growing struct{ last, gone time.Duration }

func (g growing) then(now time.Duration) growing { return growing{now, g.gone + max(0, g.last-now)} }

func (g growing) total() time.Duration { return g.last + g.gone }
