package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/internal/mount"
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
	b   *bench
	cmd *exec.Cmd
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
		contestant{"freejail", func() (time.Duration, error) {
			return a.writeLines(ctx, "freejail", map[string]any{"image": "bench", "args": args})
		}},
		contestant{"raw_exec", func() (time.Duration, error) {
			return a.writeLines(ctx, "raw_exec", map[string]any{"command": self, "args": args})
		}})
}

func (b *bench) startNomad(ctx context.Context) (*agent, error) {
	bin := os.Getenv("NOMAD_BIN")
	if bin == "" {
		return nil, errors.New("NOMAD_BIN is not set; `make bench` sets it")
	}
	ports, err := freePorts()
	if err != nil {
		return nil, err
	}
	loopback := "lo"
	if runtime.GOOS == "freebsd" {
		loopback = "lo0"
	}
	conf := fmt.Sprintf(nomadConfig, b.path("nomad"), b.path("plugins"), ports[0], ports[1], ports[2], loopback, b.path("sock"))
	err = errors.Join(os.WriteFile(b.path("nomad.hcl"), []byte(conf), 0o600), os.Mkdir(b.path("plugins"), 0o755),
		os.Symlink(os.Getenv("FREEJAIL_BIN"), filepath.Join(b.path("plugins"), "freejail")))
	if err != nil {
		return nil, err
	}
	log, err := os.Create(b.path("nomad.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	a := &agent{b: b, cmd: exec.Command(bin, "agent", "-config="+b.path("nomad.hcl"))}
	a.cmd.Stdout, a.cmd.Stderr = log, log
	if a.api, err = nomad.NewClient(&nomad.Config{Address: fmt.Sprintf("http://127.0.0.1:%d", ports[0])}); err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	err = until(ctx, "Nomad's drivers", func() error {
		nodes, _, err := a.api.Nodes().List(nil)
		if err == nil && (len(nodes) != 1 || nodes[0].Status != "ready" || !nodes[0].Drivers["freejail"].Healthy || !nodes[0].Drivers["raw_exec"].Healthy) {
			err = errors.New("not healthy yet")
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

func freePorts() (ports [3]int, err error) {
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return ports, err
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

const nomadConfig = `
data_dir   = %q
plugin_dir = %q
bind_addr  = "127.0.0.1"
advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}
limits {
  http_max_conns_per_client = 0
}
ports {
  http = %d
  rpc  = %d
  serf = %d
}
server {
  enabled          = true
  bootstrap_expect = 1
}
client {
  enabled           = true
  network_interface = %q
  cpu_total_compute = 8000
}
plugin "raw_exec" {
  config { enabled = true }
}
plugin "freejail" {
  config {
    socket    = %q
    autostart = false
  }
}
`

// close ends the jobs first: raw_exec's tasks outlive their agent.
func (a *agent) close() error {
	jobs, _, err := a.api.Jobs().List(nil)
	for _, j := range jobs {
		err = errors.Join(err, a.purge(context.Background(), j.ID))
	}
	err = errors.Join(err, a.cmd.Process.Signal(syscall.SIGINT))
	a.cmd.Wait() // its exit code says nothing here
	return errors.Join(err, mount.UnmountUnder(a.b.path("nomad")))
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

func (a *agent) purge(ctx context.Context, job string) error {
	if _, _, err := a.api.Jobs().Deregister(job, true, nil); err != nil {
		return err
	}
	return until(ctx, job+" to end", func() error {
		list, _, err := a.api.Jobs().Allocations(job, true, nil)
		for _, alloc := range list {
			if alloc.ClientStatus == "running" {
				err = errors.New("it runs")
			}
		}
		return err
	})
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
		r, err := a.api.AllocFS().Cat(&nomad.Allocation{ID: list[0].ID, NodeID: list[0].NodeID}, "alloc/logs/bench.stderr.0", nil)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = fmt.Fscanf(r, "took %d", &took)
		return err
	})
	return time.Duration(took), errors.Join(err, a.purge(ctx, *j.ID))
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
	out, err := exec.CommandContext(ctx, "ps", "-A", "-ww", "-o", "pid=", "-o", "args=").Output()
	if err != nil {
		return fmt.Errorf("ps: %w", err)
	}
	var sum uint64
	found := 0
	for line := range bytes.Lines(out) {
		if !bytes.Contains(line, []byte(" executor ")) || !bytes.Contains(line, []byte(os.Getenv("NOMAD_BIN"))) {
			continue
		}
		pid, err := strconv.Atoi(string(bytes.Fields(line)[0]))
		if err != nil {
			return err
		}
		resident, err := rss(pid)
		if err != nil {
			return err
		}
		sum += resident
		found++
	}
	if found == 0 {
		return errors.New("no executor of raw_exec was found")
	}
	fmt.Printf("  raw_exec, %3d tasks: %d executor processes, resident %s together, %s a task\n", n, found, mib(sum), mib(sum/uint64(n)))
	return a.purge(ctx, *j.ID)
}
