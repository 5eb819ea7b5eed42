package soak

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testagent"
	"github.com/freejail/freejail/internal/testcluster"
)

// nomadHost is an agent on the host, with one job.
type nomadHost struct {
	*testcluster.Nomad
	jobs int
	job  *nomadJob
}

// nomadJob has one task that counts.
type nomadJob struct {
	id, alloc, log string
	pid, last      int
}

// joinNomad starts the agent, where there is one.
func (s *soak) joinNomad() (err error) {
	bin := os.Getenv("NOMAD_BIN")
	if bin == "" || s.consul == nil {
		return nil
	}
	if err := os.Mkdir(s.path("n"), 0o755); err != nil {
		return err
	}
	s.nomad = &nomadHost{}
	s.nomad.Nomad, err = testcluster.NewNomad(testcluster.Config{Bin: bin, Freejail: os.Getenv("FREEJAIL_BIN"),
		Dir: s.path("n"), Log: s.path("nomad.log"), Consul: s.consul.Addr,
		Plugin: fmt.Sprintf("socket = %q\nautostart = false\n", s.path("sock")),
		More: "server {\n enabled = true\n bootstrap_expect = 1\n}\n" +
			"client {\n gc_interval = \"10m\"\n options = { \"driver.allowlist\" = \"freejail\" }\n}\n",
		Prepare: func(c *exec.Cmd) { c.Env = append(os.Environ(), "TMPDIR="+s.path("tmp")) }})
	if err != nil {
		return err
	}
	return s.nomad.Start(s.ctx)
}

// nomadTasks is how many tasks of Nomad's are to run.
func (s *soak) nomadTasks() int {
	if s.nomad == nil || s.nomad.job == nil {
		return 0
	}
	return 1
}

// healthy waits for Nomad to know that the driver is: a job that comes before is not placed later.
func (n *nomadHost) healthy() error {
	return await("the driver to be healthy on Nomad's node", func() error {
		node, err := n.Node()
		if err == nil && (node.Status != "ready" || !node.Drivers["freejail"].Healthy) {
			err = fmt.Errorf("node %s, driver %+v", node.Status, node.Drivers["freejail"])
		}
		return err
	})
}

// runJob has a job whose task ends with code 0 when it is told to.
func (s *soak) runJob() error {
	n := s.nomad
	if err := n.healthy(); err != nil {
		return err
	}
	n.jobs++
	id := "soak" + strconv.Itoa(n.jobs)
	task := nomad.NewTask("count", "freejail")
	task.Config = map[string]any{"image": plain, "args": []string{"count", "0"}}
	task.KillSignal, task.KillTimeout = "SIGTERM", new(4*time.Minute)
	task.LogConfig = &nomad.LogConfig{MaxFiles: new(1), MaxFileSizeMB: new(10)}
	group := nomad.NewTaskGroup("group", 1)
	group.RestartPolicy = &nomad.RestartPolicy{Attempts: new(0), Mode: new("fail")}
	group.ReschedulePolicy = &nomad.ReschedulePolicy{Attempts: new(0), Unlimited: new(false)}
	group.EphemeralDisk = &nomad.EphemeralDisk{SizeMB: new(20)}
	group.AddTask(task)
	j := nomad.NewServiceJob(id, id, "global", 50).AddTaskGroup(group)
	j.Datacenters = []string{"*"}
	if _, _, err := n.Client.Jobs().Register(j, nil); err != nil {
		return err
	}
	n.job = &nomadJob{id: id}
	return testagent.Await(s.ctx, "the job "+id+" to run", func() error {
		list, _, err := n.Client.Jobs().Allocations(id, true, nil)
		if err != nil || len(list) != 1 || list[0].ClientStatus != nomad.AllocClientStatusRunning {
			return fmt.Errorf("its allocations are %+v: %w", list, err)
		}
		n.job.alloc = list[0].ID
		n.job.log = s.path("n/nomad/alloc/" + n.job.alloc + "/alloc/logs/count.stdout.0")
		t, err := s.jobsTask()
		if err == nil {
			n.job.pid = t.PID
		}
		return err
	})
}

// jobsTask is the task of the job.
func (s *soak) jobsTask() (*client.Task, error) {
	tasks, err := s.Tasks(s.ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range tasks {
		if t.Spec.Labels["alloc_id"] == s.nomad.job.alloc && t.State == client.Running {
			return &t, nil
		}
	}
	return nil, fmt.Errorf("none of %d tasks that run is of the allocation %s", len(tasks), s.nomad.job.alloc)
}

// nomadGoesOn wants the job's task to be the same process as ever, of which no line is lost, whoever was killed; now and
// then the job ends, and another one begins.
func (s *soak) nomadGoesOn() error {
	if s.nomad == nil {
		return nil
	}
	if s.nomad.job == nil {
		return s.runJob()
	}
	if err := s.checkJob(); err != nil {
		return fmt.Errorf("the job %s: %w", s.nomad.job.id, err)
	}
	if s.r.IntN(3) > 0 {
		return nil
	}
	return errors.Join(s.endJob(), s.runJob())
}

func (s *soak) checkJob() error {
	j := s.nomad.job
	t, err := s.jobsTask()
	if err != nil {
		return err
	}
	if t.PID != j.pid {
		return fmt.Errorf("its task is process %d, and was %d", t.PID, j.pid)
	}
	return testagent.Await(s.ctx, "lines of it", func() error {
		b, err := os.ReadFile(j.log)
		if err != nil {
			return err
		}
		last, err := contiguous(string(b), false)
		if err != nil {
			return testagent.Finally(err)
		}
		if last <= j.last {
			return fmt.Errorf("the last is still %d", last)
		}
		j.last = last
		return nil
	})
}

// endJob ends the job, by whose allocation its exit code was 0.
func (s *soak) endJob() error {
	n := s.nomad
	if n == nil || n.job == nil {
		return nil
	}
	j := n.job
	n.job = nil
	if err := n.EndJob(s.ctx, j.id); err != nil {
		return err
	}
	a, _, err := n.Client.Allocations().Info(j.alloc, nil)
	if err != nil {
		return err
	}
	var told []string
	for _, e := range a.TaskStates["count"].Events {
		told = append(told, e.Type+": "+e.DisplayMessage)
	}
	if all := strings.Join(told, "\n"); !strings.Contains(all, "Exit Code: 0") && s.breaks.Load() == 0 {
		return fmt.Errorf("the events of the job %s have no exit code 0:\n%s", j.id, all)
	}
	return errors.Join(n.PurgeJob(s.ctx, j.id), s.forgetAllocation(j))
}

// forgetAllocation waits for the agent to have nothing of a job any more. Of allocations that have ended Nomad 1.6 keeps
// the number of a process that has ended too, and when it begins it kills whatever has that number by then.
func (s *soak) forgetAllocation(j *nomadJob) error {
	return testagent.Await(s.ctx, "the allocation of "+j.id+" to be forgotten", func() error {
		if err := s.nomad.Client.System().GarbageCollect(); err != nil {
			return err
		}
		dir := s.path("n/nomad/alloc/" + j.alloc)
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there: %w", dir, err)
		}
		return nil
	})
}

// agentKilled has Nomad's agent be killed and come back.
func (s *soak) agentKilled() error {
	s.after(1 + s.r.Int32N(8))
	return errors.Join(s.nomad.End(syscall.SIGKILL), s.nomad.Start(s.ctx))
}

// pluginKilled has the agent's plugin be killed, and another one be there.
func (s *soak) pluginKilled() error {
	s.after(1 + s.r.Int32N(8))
	old, err := s.plugin()
	if err != nil {
		return err
	}
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		return err
	}
	return await("another plugin", func() error {
		now, err := s.plugin()
		if err == nil && now == old {
			err = fmt.Errorf("it is still %d", old)
		}
		return err
	})
}

// plugin is the process that an agent runs by its plugins' directory: the one before, where it was killed.
func (s *soak) plugin() (int, error) {
	text, err := exec.Command("ps", "-A", "-ww", "-o", "pid=", "-o", "args=").Output()
	if err != nil {
		return 0, fmt.Errorf("ps: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 1 && strings.HasPrefix(f[1], filepath.Join(s.path("n"), "plugins")) {
			return strconv.Atoi(f[0])
		}
	}
	return 0, errors.New("no process is the plugin")
}
