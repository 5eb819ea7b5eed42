package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testcluster"
)

// lines writes so many MiB of lines and tells on stderr how long it took.
func lines(count string) int {
	n, err := strconv.Atoi(count)
	if err != nil {
		return 2
	}
	line := []byte(strings.Repeat("x", 127) + "\n")
	w := bufio.NewWriterSize(os.Stdout, 32<<10)
	begin := time.Now()
	for range n << 20 / len(line) {
		if _, err := w.Write(line); err != nil {
			return 1
		}
	}
	if err := w.Flush(); err != nil {
		return 1
	}
	fmt.Fprintln(os.Stderr, "took", time.Since(begin).Nanoseconds())
	return 0
}

// agent is a Nomad agent with both drivers.
type agent struct {
	*testcluster.Nomad
	b   *bench
	dir string
	api *nomad.Client
}

const logMiB = 128

// logs compares how fast a task can write to Nomad's log, and shows raw_exec's
// memory beside ours.
func (b *bench) logs(ctx context.Context) (err error) {
	a, err := b.startNomad(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	if err := a.rawExecMemory(ctx, 10); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"program", "lines", strconv.Itoa(logMiB)}
	return contest(3, fmt.Sprintf("%d MiB of lines from a task to Nomad's log", logMiB),
		contestant{name: "raw_exec", run: func() (time.Duration, error) {
			return a.writeLines(ctx, "raw_exec", map[string]any{"command": self, "args": args})
		}},
		contestant{name: "freejail", most: 0.8, run: func() (time.Duration, error) {
			return a.writeLines(ctx, "freejail", map[string]any{"image": "bench", "args": args})
		}})
}

func (b *bench) startNomad(ctx context.Context) (*agent, error) {
	bin := os.Getenv("NOMAD_BIN")
	if bin == "" {
		return nil, errors.New("NOMAD_BIN is not set; `make bench` sets it")
	}
	dir, err := os.MkdirTemp(b.dir, "a")
	if err != nil {
		return nil, err
	}
	n, err := testcluster.NewNomad(testcluster.Config{
		Bin: bin, Freejail: os.Getenv("FREEJAIL_BIN"), Dir: dir, Log: b.path("nomad.log"),
		Plugin: fmt.Sprintf("socket = %q\nautostart = false", b.path("sock")), More: nomadConfig,
		Drivers: []string{"raw_exec"},
	})
	if err != nil {
		return nil, err
	}
	a := &agent{n, b, dir, n.Client}
	if err := n.Start(ctx); err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

const nomadConfig = `
server {
  enabled          = true
  bootstrap_expect = 1
}
plugin "raw_exec" {
  config { enabled = true }
}
`

// close ends the jobs first: raw_exec's tasks outlive their agent.
func (a *agent) close() error {
	jobs, _, err := a.api.Jobs().List(nil)
	for _, j := range jobs {
		err = errors.Join(err, a.PurgeJob(context.Background(), j.ID))
	}
	return errors.Join(err, a.End(syscall.SIGINT), mount.UnmountUnder(a.dir))
}

func (a *agent) job(name, driver string, count int, config map[string]any) *nomad.Job {
	task := nomad.NewTask("bench", driver)
	task.Config = config
	mb, cpu, files, size, none, fail := 32, 20, 30, 10, 0, "fail"
	task.Resources = &nomad.Resources{MemoryMB: &mb, CPU: &cpu}
	task.LogConfig = &nomad.LogConfig{MaxFiles: &files, MaxFileSizeMB: &size}
	group := nomad.NewTaskGroup("bench", count)
	disk := logMiB * 4
	group.EphemeralDisk = &nomad.EphemeralDisk{SizeMB: &disk}
	group.RestartPolicy = &nomad.RestartPolicy{Attempts: &none, Mode: &fail}
	group.AddTask(task)
	j := nomad.NewBatchJob(name, name, "global", 50).AddTaskGroup(group)
	j.Datacenters = []string{"*"}
	return j
}

// run registers a job and waits until all its allocations have a status.
func (a *agent) run(ctx context.Context, j *nomad.Job, count int, status string) ([]*nomad.AllocationListStub, error) {
	if _, _, err := a.api.Jobs().Register(j, nil); err != nil {
		return nil, err
	}
	var list []*nomad.AllocationListStub
	err := until(ctx, fmt.Sprintf("%s to be %s", *j.Name, status), func() (err error) {
		list, _, err = a.api.Jobs().Allocations(*j.ID, true, nil)
		n := 0
		for _, alloc := range list {
			if alloc.ClientStatus == status {
				n++
			} else if alloc.ClientStatus == "failed" {
				why := "it failed"
				for _, e := range alloc.TaskStates["bench"].Events {
					why += "; " + e.DisplayMessage
				}
				return errors.New(why)
			}
		}
		if err == nil && n != count {
			err = fmt.Errorf("%d of %d", n, count)
		}
		return err
	})
	return list, err
}

// writeLines tells how long the task says that its writing took.
func (a *agent) writeLines(ctx context.Context, driver string, config map[string]any) (time.Duration, error) {
	j := a.job(fmt.Sprintf("lines-%s-%d", driver, time.Now().UnixNano()), driver, 1, config)
	list, err := a.run(ctx, j, 1, "complete")
	if err != nil {
		return 0, err
	}
	var took int64
	err = until(ctx, "the task's word", func() error {
		r, err := a.api.AllocFS().Cat(&nomad.Allocation{ID: list[0].ID, NodeID: list[0].NodeID},
			"alloc/logs/bench.stderr.0", nil)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = fmt.Fscanf(r, "took %d", &took)
		return err
	})
	return time.Duration(took), errors.Join(err, a.PurgeJob(ctx, *j.ID))
}

// rawExecMemory adds up the executors' resident memory.
func (a *agent) rawExecMemory(ctx context.Context, n int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	j := a.job("memory", "raw_exec", 0, map[string]any{"command": self, "args": []string{"program", "sleep"}})
	for i := range n { // all at once they can take longer to start than Nomad waits for them
		count := i + 1
		j.TaskGroups[0].Count = &count
		if _, err := a.run(ctx, j, count, "running"); err != nil {
			return err
		}
	}
	pids, err := processes(ctx, isExecutor)
	if err != nil {
		return err
	}
	sum, err := residentOf(pids)
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return errors.New("no executor of raw_exec was found")
	}
	fmt.Printf("  raw_exec, %3d tasks: %d executor processes, resident %s together, %s a task\n", n, len(pids),
		mib(sum), mib(sum/uint64(n)))
	return a.PurgeJob(ctx, *j.ID)
}
