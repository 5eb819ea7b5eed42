package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testagent"
)

// placed is a way to have Nomad run many tasks on a host.
type placed struct {
	name, driver string
	logs         bool
	most         int // tasks
	churn        int // starts and ends among them
}

// withProcesses is how many tasks are run where each has processes of Nomad's.
const withProcesses = 100

// jobs measures one host with more and more tasks that Nomad starts, 20 at a time, what its own agent takes for them,
// and what a kill of the agent and a drain of the node take.
func (b *bench) jobs(ctx context.Context) error {
	last, churn, err := manyTasks()
	if err != nil {
		return err
	}
	for _, p := range []placed{
		{"freejail, Nomad keeps no logs", "freejail", false, last, churn},
		{"freejail, Nomad keeps logs", "freejail", true, min(last, withProcesses), 0},
		{"raw_exec, Nomad keeps no logs", "raw_exec", false, min(last, withProcesses), 0},
		{"raw_exec, Nomad keeps logs", "raw_exec", true, min(last, withProcesses), 0},
	} {
		if err := b.placed(ctx, p); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

func (b *bench) placed(ctx context.Context, p placed) (err error) {
	a, err := b.startNomad(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	node, err := a.Node()
	if err != nil {
		return err
	}
	m := &many{agent: a, placed: p, node: node.ID}
	if m.job, err = a.sleepers(p); err != nil {
		return err
	}
	rows := []*grows{
		{what: "20 more, until all run", rounds: 3, most: -1, steps: true, run: func() (took time.Duration, err error) {
			if took, err = m.to(ctx, m.n+atOnce); err == nil {
				_, err = m.to(ctx, m.n-atOnce)
			}
			return took, err
		}},
		{what: "20 fewer, until nothing of them is left", rounds: 3, most: -1, run: func() (took time.Duration,
			err error) {
			if _, err = m.to(ctx, m.n+atOnce); err == nil {
				took, err = m.to(ctx, m.n-atOnce)
			}
			return took, err
		}},
		{what: "the agent killed, until a new one answers for all", rounds: 1,
			run: func() (time.Duration, error) { return m.agentKilled(ctx) }},
		{what: "the node drained at once, until nothing is left", rounds: 1,
			run: func() (time.Duration, error) { return m.drained(ctx, &nomad.DrainSpec{Deadline: -1}) }},
		{what: "the node eligible again, until all run", rounds: 1,
			run: func() (time.Duration, error) { return m.drained(ctx, nil) }},
	}
	fmt.Printf("\nOne host with many tasks of Nomad's, %d more at a time: %s\n", atOnce, p.name)
	steps := map[string][]time.Duration{}
	var levels []int
	for _, level := range levelsTo(p.most) {
		levels = append(levels, level)
		begin, before := time.Now(), m.n
		for m.n < level {
			if _, err := m.to(ctx, min(level, m.n+atOnce)); err != nil {
				return err
			}
		}
		if err := m.tell(ctx, time.Since(begin)/time.Duration(level-before)); err != nil {
			return err
		}
		for _, r := range rows {
			if err := b.measureRow(ctx, r, steps); err != nil {
				return fmt.Errorf("%s, %d tasks: %w", r.what, level, err)
			}
		}
	}
	printGrowth(levels, append(rows, stepRows(levels, steps)...))
	if p.churn > 0 {
		begin := time.Now()
		for range p.churn / atOnce {
			if _, err := m.to(ctx, m.n+atOnce); err != nil {
				return err
			}
			if _, err := m.to(ctx, m.n-atOnce); err != nil {
				return err
			}
		}
		fmt.Printf("  %d starts and ends, %d at a time: %s each\n", p.churn, atOnce,
			round(time.Since(begin)/time.Duration(p.churn)))
		if err := m.tell(ctx, 0); err != nil {
			return err
		}
	}
	took, err := m.to(ctx, 0)
	fmt.Printf("  the end of all: %s each\n", round(took/time.Duration(p.most)))
	return err
}

// many are the tasks of a job.
type many struct {
	*agent
	placed
	node string
	job  *nomad.Job
	n    int
}

// sleepers is a job whose tasks wait. Their reservations are as small as Nomad has them.
func (a *agent) sleepers(p placed) (*nomad.Job, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	config := map[string]any{"image": "bench"}
	if p.driver == "raw_exec" {
		config = map[string]any{"command": self, "args": sleepArgs[1:]}
	}
	j := a.job("sleepers", p.driver, 0, config)
	service := nomad.JobTypeService // of a batch job Nomad takes tasks that a drain has ended for done
	j.Type = &service
	mb, cpu, one, disk, none := 10, 1, 1, 10, !p.logs
	j.TaskGroups[0].EphemeralDisk = &nomad.EphemeralDisk{SizeMB: &disk}
	task := j.TaskGroups[0].Tasks[0]
	task.Resources = &nomad.Resources{MemoryMB: &mb, CPU: &cpu}
	task.LogConfig = &nomad.LogConfig{MaxFiles: &one, MaxFileSizeMB: &one, Disabled: &none}
	return j, nil
}

// to has so many tasks run, and tells how long it took.
func (m *many) to(ctx context.Context, n int) (time.Duration, error) {
	begin := time.Now()
	m.n, m.job.TaskGroups[0].Count = n, &n
	if _, _, err := m.api.Jobs().Register(m.job, nil); err != nil {
		return 0, err
	}
	return m.await(ctx, begin, n)
}

// await tells since when so many tasks run and nothing of others is there.
func (m *many) await(ctx context.Context, begin time.Time, n int) (time.Duration, error) {
	sleeps := " " + strings.Join(sleepArgs[1:], " ")
	err := testagent.Await(ctx, fmt.Sprintf("%d tasks to run", n), func() error {
		pids, err := processes(ctx, func(args string) bool { return strings.HasSuffix(args, sleeps) })
		if err == nil && len(pids) != n {
			err = fmt.Errorf("%d run", len(pids))
		}
		if err != nil {
			return err
		}
		if m.driver == "freejail" {
			return m.b.allRun(ctx, n)
		}
		if pids, err = processes(ctx, isExecutor); err == nil && len(pids) != n {
			err = fmt.Errorf("there are %d executors", len(pids))
		}
		return err
	})
	return time.Since(begin), err
}

// agentKilled is a kill of the agent and the time until the next one has the figures of every allocation's task.
func (m *many) agentKilled(ctx context.Context) (time.Duration, error) {
	var ids []string
	err := testagent.Await(ctx, "Nomad to know what runs", func() error {
		list, _, err := m.api.Jobs().Allocations(*m.job.ID, false, nil)
		ids = nil
		for _, a := range list {
			if a.ClientStatus == nomad.AllocClientStatusRunning {
				ids = append(ids, a.ID)
			}
		}
		if err == nil && len(ids) != m.n {
			err = fmt.Errorf("%d allocations run, want %d", len(ids), m.n)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	before, err := m.b.daemon.Tasks(ctx)
	if err = errors.Join(err, m.Agent.End(syscall.SIGKILL)); err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := m.Start(ctx); err != nil {
		return 0, err
	}
	err = sideBySide(ids, func(id string) error {
		return testagent.Await(ctx, "figures of an allocation", func() error {
			s, err := m.api.Allocations().Stats(&nomad.Allocation{ID: id, NodeID: m.node}, nil)
			if err == nil && len(s.Tasks) != 1 {
				err = errors.New("it has none")
			}
			return err
		})
	})
	took := time.Since(begin)
	after, aerr := m.b.daemon.Tasks(ctx)
	if err = errors.Join(err, aerr); err != nil {
		return 0, err
	}
	kept := map[string]bool{} // an agent may begin what it had just ended once more
	for _, t := range after {
		kept[t.Spec.ID] = true
	}
	if slices.ContainsFunc(before, func(t client.Task) bool { return !kept[t.Spec.ID] }) {
		return 0, errors.New("tasks were started anew")
	}
	return took, nil
}

// drained is the time until a node that is drained has nothing, or one that is no more has all again.
func (m *many) drained(ctx context.Context, spec *nomad.DrainSpec) (time.Duration, error) {
	begin, n := time.Now(), m.n
	if spec != nil {
		n = 0
	}
	if _, err := m.api.Nodes().UpdateDrain(m.node, spec, spec == nil, nil); err != nil {
		return 0, err
	}
	return m.await(ctx, begin, n)
}

// tell prints what processes there are for the tasks. took is what each start took, if it is told.
func (m *many) tell(ctx context.Context, took time.Duration) error {
	now, err := m.b.sample(ctx)
	if err != nil {
		return err
	}
	agent, err := rss(m.Pid)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("  %5d tasks: ", m.n)
	if took > 0 {
		text += round(took) + " for each more; "
	}
	text += fmt.Sprintf("the daemon: %s of heap and stacks; resident: Nomad's agent %s", mib(now.heap), mib(agent))
	for _, kind := range []struct{ name, program string }{
		{"freejail's plugin", filepath.Join(m.dir, "plugins/freejail")},
		{"log collectors", os.Getenv("NOMAD_BIN") + " logmon"}, {"executors", os.Getenv("NOMAD_BIN") + " executor"},
	} {
		pids, err := processes(ctx, programIs(kind.program))
		if err != nil {
			return err
		}
		sum, err := residentOf(pids)
		if err != nil {
			return err
		}
		if len(pids) > 0 {
			text += fmt.Sprintf(", %d %s %s", len(pids), kind.name, mib(sum))
		}
	}
	fmt.Println(text)
	return nil
}

// programIs tells of arguments whether they begin with some.
func programIs(begin string) func(args string) bool {
	return func(args string) bool { return strings.HasPrefix(args+" ", begin+" ") }
}

func isExecutor(args string) bool { return programIs(os.Getenv("NOMAD_BIN") + " executor")(args) }

// processes are those whose arguments are of a kind.
func processes(ctx context.Context, is func(args string) bool) (pids []int, err error) {
	out, err := exec.CommandContext(ctx, "ps", "-A", "-ww", "-o", "pid=", "-o", "args=").Output()
	if err != nil {
		return nil, fmt.Errorf("ps: %w", err)
	}
	for line := range bytes.Lines(out) {
		pid, args, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		if !is(strings.TrimSpace(args)) {
			continue
		}
		n, err := strconv.Atoi(pid)
		if err != nil {
			return nil, err
		}
		pids = append(pids, n)
	}
	return pids, nil
}

// residentOf is the resident memory of processes together, in bytes; what they share counts for each.
func residentOf(pids []int) (sum uint64, err error) {
	for _, pid := range pids {
		n, err := rss(pid)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
