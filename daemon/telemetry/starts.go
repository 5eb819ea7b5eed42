package telemetry

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freejail/freejail/daemon/client"
)

// What is known of tasks of Nomad that have ended is forgotten after a while, or as there are too many.
const (
	startsAge  = time.Hour
	startsMost = 1000
)

// starts counts the starts of Nomad's tasks, and those among them that were not the first one of their allocation here:
// its restarts. A task of freejail's lasts from one start to its end; these go on.
type starts struct {
	now func() time.Time

	mu    sync.Mutex
	tasks map[taskName]*startCount
	seen  map[[2]string]time.Time // when a task of an allocation, by its name, was seen last
}

// taskName is a task as its job has it.
type taskName struct{ namespace, job, group, name string }

type startCount struct {
	starts, restarts float64
	seen             time.Time
}

func newStarts() *starts {
	return &starts{now: time.Now, tasks: map[taskName]*startCount{}, seen: map[[2]string]time.Time{}}
}

// Names are the values of the labels namespace, job, group and name of a task; they are empty of one that is not
// Nomad's.
func Names(s client.TaskSpec) []string {
	l := s.NomadLabels()
	return []string{Label(l["namespace"]), Label(l["job"]), Label(l["group"]), Label(l["task"])}
}

// Attributes are those of a task's span: its id, its image, and what its job calls it.
func Attributes(s client.TaskSpec) []string {
	l := s.NomadLabels()
	return []string{"freejail.task", s.ID, "freejail.image", s.Image, "nomad.namespace", l["namespace"],
		"nomad.job", l["job"], "nomad.group", l["group"], "nomad.task", l["task"], "nomad.alloc_id", l["alloc_id"]}
}

// Started counts a start.
func (r *Recorder) Started(s client.TaskSpec) {
	if r == nil || s.NomadLabels() == nil {
		return
	}
	c := r.starts
	c.mu.Lock()
	defer c.mu.Unlock()
	_, again := c.seen[allocated(s)]
	n := c.see(s)
	n.starts++
	if again {
		n.restarts++
	}
	c.forget()
}

// Runs notes that a task is there: the next one of its allocation is a restart, be this one another daemon's.
func (r *Recorder) Runs(s client.TaskSpec) {
	if r == nil || s.NomadLabels() == nil {
		return
	}
	r.starts.mu.Lock()
	defer r.starts.mu.Unlock()
	r.starts.see(s)
}

func allocated(s client.TaskSpec) [2]string { return [2]string{s.Labels["alloc_id"], s.Labels["task"]} }

// see is called with the lock.
func (c *starts) see(s client.TaskSpec) *startCount {
	l := Names(s)
	name := taskName{l[0], l[1], l[2], l[3]}
	n := c.tasks[name]
	if n == nil {
		n = &startCount{}
		c.tasks[name] = n
	}
	n.seen = c.now()
	c.seen[allocated(s)] = n.seen
	return n
}

// forget is called with the lock.
func (c *starts) forget() {
	old := c.now().Add(-startsAge)
	prune(c.seen, old, func(at time.Time) time.Time { return at })
	prune(c.tasks, old, func(n *startCount) time.Time { return n.seen })
}

// prune removes what was seen before a time, and the oldest of what is too much.
func prune[K comparable, V any](m map[K]V, old time.Time, seen func(V) time.Time) {
	maps.DeleteFunc(m, func(_ K, v V) bool { return seen(v).Before(old) })
	if len(m) <= startsMost {
		return
	}
	oldest := slices.SortedFunc(maps.Keys(m), func(a, b K) int { return seen(m[a]).Compare(seen(m[b])) })
	for _, k := range oldest[:len(m)-startsMost] {
		delete(m, k)
	}
}

var (
	startsDesc = prometheus.NewDesc("freejail_task_starts_total", "Starts of a job's task on this host.", nameLabels,
		nil)
	restarts = prometheus.NewDesc("freejail_task_restarts_total",
		"Starts of a job's task in an allocation that had started it before.", nameLabels, nil)
	nameLabels = []string{"namespace", "job", "group", "name"}
)

// Describe is a [prometheus.Collector]'s.
func (c *starts) Describe(ch chan<- *prometheus.Desc) {
	ch <- startsDesc
	ch <- restarts
}

// Collect is a [prometheus.Collector]'s.
func (c *starts) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget()
	for k, n := range c.tasks {
		labels := []string{k.namespace, k.job, k.group, k.name}
		ch <- prometheus.MustNewConstMetric(startsDesc, prometheus.CounterValue, n.starts, labels...)
		ch <- prometheus.MustNewConstMetric(restarts, prometheus.CounterValue, n.restarts, labels...)
	}
}
