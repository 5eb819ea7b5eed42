package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testagent"
)

// register hands a job file of example/jobs to Nomad.
func (c *cluster) register(name string) error {
	path := filepath.Join("example", "jobs", name+".nomad.hcl")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	job, err := c.nomad.Jobs().ParseHCL(string(text), true)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	say("   $ nomad job run %s", path)
	if _, _, err := c.nomad.Jobs().Register(job, nil); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// run starts a job and waits until its task runs.
func (c *cluster) run(ctx context.Context, name string) (*nomad.AllocationListStub, error) {
	if err := c.register(name); err != nil {
		return nil, err
	}
	return c.running(ctx, name, true)
}

// running waits for the job's newest allocation. A failed one is final or not.
func (c *cluster) running(ctx context.Context, job string, failIsFinal bool) (a *nomad.AllocationListStub, err error) {
	err = testagent.Await(ctx, "job "+job+" to run", func() error {
		a, err = c.newest(job)
		switch {
		case err != nil:
			return err
		case a.ClientStatus == "running":
			return nil
		case a.ClientStatus == "failed" && failIsFinal:
			return testagent.Finally(fmt.Errorf("its task has failed: %s", strings.Join(events(a, job), "; ")))
		}
		return fmt.Errorf("it is %s: %s", a.ClientStatus, strings.Join(events(a, job), "; "))
	})
	return a, err
}

func (c *cluster) newest(job string) (*nomad.AllocationListStub, error) {
	list, _, err := c.nomad.Jobs().Allocations(job, true, nil)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("no allocation yet")
	}
	return slices.MaxFunc(list, func(a, b *nomad.AllocationListStub) int { return int(a.CreateTime - b.CreateTime) }),
		nil
}

// events are what Nomad shows of a task to its owner.
func events(a *nomad.AllocationListStub, task string) []string {
	var out []string
	if s := a.TaskStates[task]; s != nil {
		for _, e := range s.Events {
			out = append(out, e.Type+": "+e.DisplayMessage)
		}
	}
	return out
}

// refused starts a job and returns the event by which Nomad tells why its task
// did not start.
func (c *cluster) refused(ctx context.Context, name string) (event string, err error) {
	if err := c.register(name); err != nil {
		return "", err
	}
	err = testagent.Await(ctx, "job "+name+" to be refused", func() error {
		a, err := c.newest(name)
		if err != nil {
			return err
		}
		if a.ClientStatus == "running" {
			return testagent.Finally(errors.New("it runs, though no permit covers what it asks for"))
		}
		all := events(a, name)
		i := slices.IndexFunc(all, func(e string) bool { return strings.HasPrefix(e, "Driver Failure") })
		if i < 0 || a.ClientStatus != "failed" {
			return fmt.Errorf("it is %s, with the events %q", a.ClientStatus, all)
		}
		event = all[i]
		return nil
	})
	return event, err
}

var approveCommand = regexp.MustCompile(`freejail policy approve ([^ ]+@sha256:[0-9a-f]{64}) --reason "..." --request`)

// approval takes the command from the text of a refusal.
func approval(refusal string) ([]string, error) {
	m := approveCommand.FindStringSubmatch(refusal)
	if m == nil {
		return nil, errors.New("the refusal names no command to approve the image")
	}
	return []string{"policy", "approve", m[1], "--reason", "seen in the demo"}, nil
}

// again has Nomad place a failed job now and not after its delay.
func (c *cluster) again(ctx context.Context, job string) (*nomad.AllocationListStub, error) {
	if _, _, err := c.nomad.Jobs().EvaluateWithOpts(job, nomad.EvalOptions{ForceReschedule: true}, nil); err != nil {
		return nil, err
	}
	return c.running(ctx, job, false)
}

// find asks Consul for a healthy service.
func (c *cluster) find(ctx context.Context, name string) (addr string, err error) {
	err = testagent.Await(ctx, "service "+name+" to be healthy in Consul", func() error {
		list, _, err := c.consul.Health().Service(name, "", true, nil)
		if err != nil {
			return err
		}
		if len(list) != 1 {
			return fmt.Errorf("%d services pass", len(list))
		}
		addr = net.JoinHostPort(list[0].Service.Address, strconv.Itoa(list[0].Service.Port))
		return nil
	})
	return addr, err
}

// task is the daemon's name of an allocation's task.
func (c *cluster) task(ctx context.Context, alloc string) (string, error) {
	list, err := c.daemon.Tasks(ctx)
	for _, t := range list {
		if t.Spec.Labels["alloc_id"] == alloc {
			return t.Spec.ID, nil
		}
	}
	return "", errors.Join(err, fmt.Errorf("the daemon has no task of allocation %s", alloc))
}

func (c *cluster) awaitLog(ctx context.Context, task, want string) error {
	return testagent.Await(ctx, "the log of "+task, func() error {
		var b bytes.Buffer
		if err := c.daemon.Logs(ctx, task, "stdout", false, -1, &b); err != nil {
			return err
		}
		if !strings.Contains(b.String(), want) {
			return fmt.Errorf("it is %q", b.String())
		}
		return nil
	})
}

// purge stops a job, waits for its end and has Nomad forget it.
func (c *cluster) purge(ctx context.Context, job string) error {
	say("   $ nomad job stop -purge %s", job)
	return c.nomadAgent.PurgeJob(ctx, job)
}

// idle waits until freejail has nothing left of any task.
func (c *cluster) idle(ctx context.Context) error {
	if err := c.nomad.System().GarbageCollect(); err != nil {
		return err
	}
	return testagent.Await(ctx, "everything of the tasks to be gone", func() error {
		left, err := c.left(ctx)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left: %s", strings.Join(left, ", "))
		}
		return err
	})
}

func (c *cluster) left(ctx context.Context) ([]string, error) {
	tasks, err1 := c.daemon.Tasks(ctx)
	sets, err2 := c.daemon.Rulesets(ctx)
	mounts, err3 := mount.Below(c.path("state"))
	services, err4 := c.consul.Agent().Services()
	roots, err5 := os.ReadDir(c.path("state", "storage", "roots"))
	if errors.Is(err5, os.ErrNotExist) { // other storage drivers have no such directory
		err5 = nil
	}
	var left []string
	for _, t := range tasks {
		left = append(left, "task "+t.Spec.ID)
	}
	for _, s := range sets {
		if len(s.Holders) > 0 {
			left = append(left, fmt.Sprintf("ruleset %d held by %s", s.ID, strings.Join(s.Holders, ", ")))
		}
	}
	for _, m := range mounts {
		left = append(left, "mount "+m.Target)
	}
	for id := range services {
		if !strings.HasPrefix(id, "_nomad") { // the agent's own
			left = append(left, "service "+id)
		}
	}
	for _, r := range roots {
		left = append(left, "root "+r.Name())
	}
	return left, errors.Join(err1, err2, err3, err4, err5)
}

func httpGet(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(b), err
}
