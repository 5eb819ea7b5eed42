package driver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/freejail/freejail/daemon/client"
)

// handleVersion is that of handleState in Nomad's state.
const handleVersion = 1

// handleState is what Nomad keeps for us over restarts.
type handleState struct {
	DaemonID string
	Started  time.Time
}

var notID = regexp.MustCompile(`[^A-Za-z0-9_-]+`)

// daemonID names a task on the daemon: readable, and unique by a hash of
// Nomad's id.
func daemonID(nomadID, name string) string {
	sum := sha256.Sum256([]byte(nomadID))
	name = notID.ReplaceAllString(name, "-")
	if name == "" || !(name[0] >= 'a' && name[0] <= 'z' || name[0] >= 'A' && name[0] <= 'Z') {
		name = "t" + name
	}
	return name[:min(len(name), 40)] + "-" + hex.EncodeToString(sum[:6])
}

// idOf finds the daemon's name of a task, also of one that was never told to
// this process.
func (d *Driver) idOf(nomadID string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tasks[nomadID]
}

func (d *Driver) remember(nomadID, id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tasks[nomadID] = id
}

// StartTask starts a task on the daemon.
func (d *Driver) StartTask(cfg *drivers.TaskConfig) (*drivers.TaskHandle, *drivers.DriverNetwork, error) {
	var tc TaskConfig
	if err := cfg.DecodeDriverConfig(&tc); err != nil {
		return nil, nil, fmt.Errorf("task config: %w", err)
	}
	if err := tc.validate(d.config()); err != nil {
		return nil, nil, fmt.Errorf("task config: %w", err)
	}
	spec, err := d.spec(cfg, tc)
	if err != nil {
		return nil, nil, err
	}
	ctx := context.Background()
	if _, err := d.ensureDaemon(ctx); err != nil {
		return nil, nil, err
	}
	t, err := d.daemon().Start(ctx, spec)
	if err != nil {
		return nil, nil, err
	}
	d.remember(cfg.ID, spec.ID)
	h := drivers.NewTaskHandle(handleVersion)
	h.Config = cfg
	h.State = drivers.TaskStateRunning
	if err := h.SetDriverState(handleState{DaemonID: spec.ID, Started: t.StartedAt}); err != nil {
		return nil, nil, errors.Join(err, d.daemon().Destroy(ctx, spec.ID, true))
	}
	return h, driverNetwork(t), nil
}

// driverNetwork tells Nomad where the manifest's ports are.
func driverNetwork(t *client.Task) *drivers.DriverNetwork {
	if len(t.Ports) == 0 {
		return nil
	}
	n := &drivers.DriverNetwork{PortMap: map[string]int{}}
	for _, p := range t.Ports {
		n.PortMap[p.Name] = p.Port
		n.IP = p.Address
	}
	return n
}

func (d *Driver) spec(cfg *drivers.TaskConfig, tc TaskConfig) (client.TaskSpec, error) {
	s := client.TaskSpec{ID: daemonID(cfg.ID, cfg.Name), Owner: "nomad", Image: tc.Image, Entrypoint: tc.Entrypoint, Command: tc.Command,
		Args: tc.Args, Env: cfg.Env, WorkDir: tc.WorkDir, User: cfg.User, Hostname: tc.Hostname, Parameters: tc.Parameters, Storage: tc.Storage,
		Wait: tc.Wait, Stdout: cfg.StdoutPath, Stderr: cfg.StderrPath,
		Labels: map[string]string{"nomad_task_id": cfg.ID, "alloc_id": cfg.AllocID, "job": cfg.JobName, "group": cfg.TaskGroupName, "task": cfg.Name, "namespace": cfg.Namespace},
		Wants:  client.Wants{Devfs: tc.Devfs, Allow: tc.Allow, Jail: tc.Jail, Sysctl: tc.Sysctl, SysVIPC: tc.SysVIPC}}
	taskDir := cfg.TaskDir()
	if !filepath.IsAbs(s.Image) && strings.HasPrefix(s.Image, "local/") { // fetched by an artifact block
		s.Image = filepath.Join(taskDir.Dir, filepath.Join("/", s.Image))
	}
	s.Dirs = []client.Mount{
		{Source: taskDir.SharedAllocDir, Target: "/alloc"},
		{Source: taskDir.LogDir, Target: "/alloc/logs", ReadOnly: true},
		{Source: taskDir.LocalDir, Target: "/local"},
		{Source: taskDir.SecretsDir, Target: "/secrets"},
	}
	for _, m := range cfg.Mounts { // host volumes and the like, which Nomad decided on
		s.Dirs = append(s.Dirs, client.Mount{Source: m.HostPath, Target: m.TaskPath, ReadOnly: m.Readonly})
	}
	if len(cfg.Devices) > 0 {
		return s, fmt.Errorf("device plugins are not supported: ask for devices by devfs rules (devfs = [\"path 'x' unhide\"])")
	}
	s.Volumes = tc.volumes(taskDir.Dir)
	s.Limits = limits(cfg, tc)
	s.Service.Disabled = tc.Services.Disabled
	s.Service.Ports = map[string]client.PortOverride{}
	for _, p := range tc.Services.Ports {
		s.Service.Ports[p.Port] = client.PortOverride{Disabled: p.Disabled, Name: p.Service, Tags: p.Tags, Address: p.Address}
	}
	var err error
	s.Ports, err = portBindings(cfg, tc)
	return s, err
}

func limits(cfg *drivers.TaskConfig, tc TaskConfig) client.Limits {
	l := client.Limits{MaxProcs: tc.PidsLimit, OpenFiles: tc.OpenFiles}
	if cfg.Resources == nil {
		return l
	}
	if r := cfg.Resources.NomadResources; r != nil {
		l.MemoryBytes = r.Memory.MemoryMB << 20
		if maxMB := r.Memory.MemoryMaxMB; maxMB > r.Memory.MemoryMB {
			l.MemoryReserveBytes, l.MemoryBytes = l.MemoryBytes, maxMB<<20
		}
		l.CPUShares = r.Cpu.CpuShares
	}
	if r := cfg.Resources.LinuxResources; r != nil {
		l.CPUSet = r.CpusetCpus
		if tc.CPUHard && r.PercentTicks > 0 {
			l.CPUPercent = max(1, int(r.PercentTicks*float64(runtime.NumCPU())*100))
		}
	}
	return l
}

// portBindings ties the manifest's ports to Nomad's by the job's map. A port
// of Nomad's that has the same label as one of the manifest's is found in the
// environment that the group's network gives.
func portBindings(cfg *drivers.TaskConfig, tc TaskConfig) (map[string]client.PortBinding, error) {
	out := map[string]client.PortBinding{}
	labels := map[string]client.PortBinding{}
	if cfg.Resources != nil && cfg.Resources.Ports != nil {
		for _, p := range *cfg.Resources.Ports {
			labels[p.Label] = client.PortBinding{Address: p.HostIP, Port: p.Value}
		}
	}
	for name, label := range tc.Ports {
		b, ok := labels[label]
		if !ok {
			n, err := strconv.Atoi(label)
			if err != nil {
				return nil, fmt.Errorf("ports: %s = %q: the group's network block has no port %q, and it is no number", name, label, label)
			}
			b = client.PortBinding{Port: n}
		}
		out[name] = b
	}
	if len(tc.Ports) > 0 {
		return out, nil
	}
	for label, b := range labels {
		if net.ParseIP(b.Address) != nil && b.Port > 0 {
			out[label] = b
		}
	}
	return out, nil
}

// RecoverTask takes up a task that an earlier plugin process started.
func (d *Driver) RecoverTask(h *drivers.TaskHandle) error {
	if h == nil || h.Config == nil {
		return errors.New("there is no handle to recover")
	}
	var state handleState
	if err := h.GetDriverState(&state); err != nil {
		return fmt.Errorf("the task's handle: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := d.ensureDaemon(ctx); err != nil {
		return err
	}
	if _, err := d.daemon().Task(ctx, state.DaemonID); err != nil {
		return err
	}
	d.remember(h.Config.ID, state.DaemonID)
	return nil
}

// WaitTask tells the task's end once, whatever happens to the daemon meanwhile.
func (d *Driver) WaitTask(ctx context.Context, taskID string) (<-chan *drivers.ExitResult, error) {
	id := d.idOf(taskID)
	if id == "" {
		return nil, drivers.ErrTaskNotFound
	}
	out := make(chan *drivers.ExitResult, 1)
	go func() {
		defer close(out)
		out <- d.await(ctx, id)
	}()
	return out, nil
}

// await outlives restarts and upgrades of the daemon: only its word that the
// task has ended, or is not known, ends it.
func (d *Driver) await(ctx context.Context, id string) *drivers.ExitResult {
	for {
		e, err := d.daemon().Wait(ctx, id)
		switch {
		case err == nil:
			return exitResult(e)
		case ctx.Err() != nil:
			return &drivers.ExitResult{Err: ctx.Err()}
		case client.IsNotFound(err):
			return &drivers.ExitResult{ExitCode: -1, Err: errors.New("the daemon does not know the task any more: its exit code is unknown")}
		}
		d.log.Debug("waiting for the daemon", "task", id, "error", err)
		select {
		case <-ctx.Done():
			return &drivers.ExitResult{Err: ctx.Err()}
		case <-time.After(200 * time.Millisecond):
		}
		if _, err := d.ensureDaemon(ctx); err != nil {
			d.log.Warn("the daemon is away", "error", err)
		}
	}
}

func exitResult(e *client.Exit) *drivers.ExitResult {
	if e == nil || !e.Known {
		msg := "the exit code is unknown"
		if e != nil && e.Message != "" {
			msg += ": " + e.Message
		}
		return &drivers.ExitResult{ExitCode: -1, Err: errors.New(msg)}
	}
	r := &drivers.ExitResult{ExitCode: e.Code, Signal: e.Signal, OOMKilled: e.OOM}
	if e.OOM {
		r.Err = errors.New("killed: over its memory limit")
	}
	return r
}

// StopTask sends the signal and kills after the timeout.
func (d *Driver) StopTask(taskID string, timeout time.Duration, signal string) error {
	id := d.idOf(taskID)
	if id == "" {
		return drivers.ErrTaskNotFound
	}
	err := d.retry(func(ctx context.Context) error {
		_, err := d.daemon().Stop(ctx, id, client.StopRequest{Signal: signal, Timeout: client.Duration(timeout)})
		return err
	})
	if client.IsNotFound(err) {
		return nil
	}
	return err
}

// retry repeats a call that a restart of the daemon broke.
func (d *Driver) retry(f func(context.Context) error) error {
	ctx := context.Background()
	var err error
	for range 10 {
		var ce *client.Error
		if err = f(ctx); err == nil || errors.As(err, &ce) {
			return err
		}
		if _, derr := d.ensureDaemon(ctx); derr != nil {
			err = errors.Join(err, derr)
		}
		time.Sleep(200 * time.Millisecond)
	}
	return err
}

// DestroyTask removes a task; with force also one that runs, or that this
// process was never told of.
func (d *Driver) DestroyTask(taskID string, force bool) error {
	id := d.idOf(taskID)
	if id == "" {
		if !force {
			return drivers.ErrTaskNotFound
		}
		if id = d.search(taskID); id == "" {
			return nil
		}
	}
	if err := d.retry(func(ctx context.Context) error { return d.daemon().Destroy(ctx, id, force) }); err != nil && !client.IsNotFound(err) {
		return err
	}
	d.mu.Lock()
	delete(d.tasks, taskID)
	d.mu.Unlock()
	d.cpu.forget(id)
	return nil
}

// search asks the daemon for a task by Nomad's id.
func (d *Driver) search(taskID string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	list, err := d.daemon().Tasks(ctx)
	if err != nil {
		d.log.Warn("destroy of an unknown task", "task", taskID, "error", err)
	}
	for _, t := range list {
		if t.Spec.Labels["nomad_task_id"] == taskID {
			return t.Spec.ID
		}
	}
	return ""
}

// InspectTask tells a task's state.
func (d *Driver) InspectTask(taskID string) (*drivers.TaskStatus, error) {
	id := d.idOf(taskID)
	if id == "" {
		return nil, drivers.ErrTaskNotFound
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	t, err := d.daemon().Task(ctx, id)
	if client.IsNotFound(err) {
		return nil, drivers.ErrTaskNotFound
	}
	if err != nil {
		return nil, err
	}
	s := &drivers.TaskStatus{ID: taskID, Name: t.Spec.Labels["task"], State: drivers.TaskStateRunning, StartedAt: t.StartedAt,
		DriverAttributes: map[string]string{"pid": strconv.Itoa(t.PID), "jail": t.Jail, "jid": strconv.Itoa(t.JID), "image": t.Digest}}
	if t.State == client.Exited {
		s.State = drivers.TaskStateExited
		s.ExitResult = exitResult(t.Exit)
		if t.Exit != nil {
			s.CompletedAt = t.Exit.At
		}
	}
	return s, nil
}

// SignalTask sends a signal to the main process.
func (d *Driver) SignalTask(taskID, signal string) error {
	id := d.idOf(taskID)
	if id == "" {
		return drivers.ErrTaskNotFound
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return d.daemon().Signal(ctx, id, signal)
}
