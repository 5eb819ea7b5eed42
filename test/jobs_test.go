package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"
)

func ptr[T any](v T) *T { return &v }

// job is one task of the probe image that is neither restarted nor moved.
func job(id, mode string, args ...string) (*nomad.Job, *nomad.Task) {
	task := nomad.NewTask("probe", "freejail")
	task.Config = map[string]any{"image": "probe", "args": append([]string{"probe", mode}, args...),
		"parameters": map[string]string{"GREETING": "hello"}}
	task.Resources = &nomad.Resources{CPU: ptr(50), MemoryMB: ptr(128)}
	task.KillTimeout = ptr(20 * time.Second)
	group := nomad.NewTaskGroup("group", 1)
	group.RestartPolicy = &nomad.RestartPolicy{Attempts: ptr(0), Mode: ptr("fail")}
	group.ReschedulePolicy = &nomad.ReschedulePolicy{Attempts: ptr(0), Unlimited: ptr(false)}
	// Nomad sets 300 MB aside for each by default, 100 of them for its log: 20 of them do not fit on a disk that is
	// nearly full.
	group.EphemeralDisk = &nomad.EphemeralDisk{SizeMB: ptr(30)}
	task.LogConfig = &nomad.LogConfig{MaxFiles: ptr(4), MaxFileSizeMB: ptr(5)}
	group.AddTask(task)
	j := nomad.NewServiceJob(id, id, "global", 50).AddTaskGroup(group)
	j.Datacenters = []string{"*"}
	return j, task
}

// withPort gives the image's port a port of Nomad's.
func withPort(j *nomad.Job, task *nomad.Task) {
	j.TaskGroups[0].Networks = []*nomad.NetworkResource{{DynamicPorts: []nomad.Port{{Label: "http"}}}}
	task.Config["ports"] = map[string]string{"http": "http"}
}

// run registers a job, and stops and forgets it at the test's end.
func (c *cluster) run(t *testing.T, j *nomad.Job) {
	t.Helper()
	_, _, err := c.nomad.Jobs().Register(j, nil)
	check(t, err)
	t.Cleanup(func() { check(t, c.nomadAgent.PurgeJob(context.Background(), *j.ID)) })
}

// stop waits until a job's allocations are over, which are there to be seen until the test's end.
func (c *cluster) stop(t *testing.T, id string) {
	t.Helper()
	check(t, c.nomadAgent.EndJob(t.Context(), id))
}

// allocs waits until n allocations of a job have a status.
func (c *cluster) allocs(t *testing.T, id string, n int, status string) []*nomad.Allocation {
	t.Helper()
	var out []*nomad.Allocation
	await(t, fmt.Sprintf("%d allocations of %s to be %s", n, id, status), func() error {
		list, _, err := c.nomad.Jobs().Allocations(id, true, nil)
		if err != nil {
			return err
		}
		var seen []string
		out = nil
		for _, a := range list {
			seen = append(seen, a.ClientStatus)
			for _, s := range a.TaskStates {
				seen = append(seen, messages(s)...)
			}
			if a.ClientStatus != status {
				continue
			}
			full, _, err := c.nomad.Allocations().Info(a.ID, nil)
			if err != nil {
				return err
			}
			out = append(out, full)
		}
		if len(out) != n {
			return fmt.Errorf("seen: %q%s", seen, c.unplaced(id))
		}
		return nil
	})
	return out
}

// unplaced says why Nomad has not placed all that a job wants, and nothing if it has.
func (c *cluster) unplaced(id string) string {
	list, _, err := c.nomad.Jobs().Evaluations(id, nil)
	if err != nil {
		return "; " + err.Error()
	}
	var b strings.Builder
	for _, e := range list {
		for group, m := range e.FailedTGAllocs {
			fmt.Fprintf(&b, "; not placed, %s of %s: filtered %v, exhausted %v", group, e.Status, m.ConstraintFiltered,
				m.DimensionExhausted)
		}
	}
	return b.String()
}

// one is allocs for a single allocation.
func (c *cluster) one(t *testing.T, j *nomad.Job, status string) *nomad.Allocation {
	t.Helper()
	return c.allocs(t, *j.ID, 1, status)[0]
}

// messages are what Nomad shows of a task to its owner.
func messages(s *nomad.TaskState) []string {
	var out []string
	for _, e := range s.Events {
		out = append(out, e.Type+": "+e.DisplayMessage)
	}
	return out
}

func wantMessage(t *testing.T, a *nomad.Allocation, parts ...string) {
	t.Helper()
	all := messages(a.TaskStates["probe"])
	if !slices.ContainsFunc(all, func(m string) bool {
		return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(m, p) })
	}) {
		t.Errorf("no event of the task has %q; it has %q", parts, all)
	}
}

// logs is what a task has written up to now. An agent can take a running task
// for one that was never started, until its next event: AllocState of Nomad's
// client/allocrunner stores the states again that it read before the start. Such
// an agent gives the file.
func (c *cluster) logs(a *nomad.Allocation, stream string) (string, error) {
	cancel := make(chan struct{})
	defer close(cancel)
	frames, errs := c.nomad.AllocFS().Logs(a, false, "probe", stream, "start", 0, cancel, nil)
	text, err := readFrames(frames, errs)
	if err == nil || !strings.Contains(err.Error(), "not started yet") {
		return text, err
	}
	file, err := c.nomad.AllocFS().Cat(a, "alloc/logs/probe."+stream+".0", nil)
	if err != nil {
		return "", err
	}
	all, err := io.ReadAll(file)
	return string(all), errors.Join(err, file.Close())
}

func readFrames(frames <-chan *nomad.StreamFrame, errs <-chan error) (string, error) {
	var b bytes.Buffer
	for {
		select {
		case f, ok := <-frames:
			if !ok {
				return b.String(), nil
			}
			b.Write(f.Data)
		case err := <-errs:
			return b.String(), err
		}
	}
}

func (c *cluster) awaitLog(t *testing.T, a *nomad.Allocation, want string) string {
	t.Helper()
	var text string
	await(t, fmt.Sprintf("%q in the log", want), func() (err error) {
		if text, err = c.logs(a, "stdout"); err == nil && !strings.Contains(text, want) {
			err = fmt.Errorf("the log is %q", text)
		}
		return err
	})
	return text
}

// exec runs a command in an allocation's jail.
func (c *cluster) exec(t *testing.T, a *nomad.Allocation, args ...string) (int, string, string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code, err := c.nomad.Allocations().Exec(t.Context(), a, "probe", false, args, strings.NewReader(""), &stdout,
		&stderr, nil, nil)
	check(t, err)
	return code, stdout.String(), stderr.String()
}
