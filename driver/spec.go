package driver

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers/proto"

	"github.com/freejail/freejail/daemon/client"
)

// spec is a task of Nomad's in the daemon's words.
func spec(cfg *proto.TaskConfig, tc TaskConfig) (client.TaskSpec, error) {
	s := client.TaskSpec{ID: daemonID(cfg.Id), Owner: "nomad", Image: tc.Image, ForcePull: tc.ForcePull,
		Entrypoint: tc.Entrypoint, Command: tc.Command, Args: tc.Args, Env: cfg.Env, WorkDir: tc.WorkDir,
		User:     cfg.User,
		Hostname: tc.Hostname, ExtraHosts: tc.ExtraHosts, Parameters: tc.Parameters,
		Storage: cmp.Or(tc.Storage, tc.Root), Wait: tc.Wait,
		Stdout: cfg.StdoutPath, Stderr: cfg.StderrPath,
		Labels: map[string]string{"nomad_task_id": cfg.Id, "alloc_id": cfg.AllocId, "namespace": cfg.Namespace,
			"job": cfg.JobName, "job_id": cfg.JobId, "group": cfg.TaskGroupName, "task": cfg.Name},
		Wants: client.Wants{Devfs: tc.Devfs, Allow: tc.Allow, Jail: tc.Jail, Sysctl: tc.Sysctl, SysVIPC: tc.SysVIPC}}
	if wait, err := time.ParseDuration(tc.PullWait); err == nil { // validated
		s.PullTimeout = client.Duration(wait)
	}
	if tc.Auth.Username != "" {
		s.Auth = &client.Auth{Username: tc.Auth.Username, Password: tc.Auth.Password}
	}
	shared, own := filepath.Join(cfg.AllocDir, "alloc"), filepath.Join(cfg.AllocDir, cfg.Name)
	s.Confined = []string{shared, own}
	if !filepath.IsAbs(s.Image) && strings.HasPrefix(s.Image, "local/") { // fetched by an artifact block
		s.Image = filepath.Join(own, filepath.Join("/", s.Image))
	}
	s.Dirs = []client.Mount{
		{Source: shared, Target: "/alloc"},
		{Source: filepath.Join(shared, "logs"), Target: "/alloc/logs", ReadOnly: true},
		{Source: filepath.Join(own, "local"), Target: "/local"},
		{Source: filepath.Join(own, "secrets"), Target: "/secrets", Private: true},
	}
	for _, m := range cfg.Mounts { // host volumes and the like, which Nomad decided on
		if err := checkVolume(m); err != nil {
			return s, err
		}
		s.Dirs = append(s.Dirs, client.Mount{Source: m.HostPath, Target: m.TaskPath, ReadOnly: m.Readonly})
	}
	s.Limits = limits(cfg, tc)
	s.Service.Disabled = tc.Services.Disabled
	if delay, err := time.ParseDuration(tc.Services.Delay); err == nil { // validated
		s.Service.ShutdownDelay = client.Duration(delay)
	}
	s.Service.Ports = map[string]client.PortOverride{}
	for _, p := range tc.Services.Ports {
		s.Service.Ports[p.Port] = client.PortOverride{Disabled: p.Disabled, Name: p.Service, Tags: p.Tags,
			Address: p.Address}
	}
	s.Network, s.Addresses, s.Share = tc.Network, tc.Address, tc.Share
	var errs [7]error
	s.Volumes, errs[0] = tc.volumes(own)
	s.Ports, errs[1] = portBindings(cfg, tc.Ports)
	s.NoPorts = tc.Ports != nil && len(s.Ports) == 0
	if s.Limits.DiskBytes, errs[2] = client.ParseSize(tc.Disk); errs[2] != nil {
		errs[2] = fmt.Errorf("disk %w", errs[2])
	}
	s.DNS, errs[3] = dns(cfg.GetDns(), client.DNS(tc.DNS))
	s.Publish, errs[4] = publications(tc.Publish)
	errs[5] = checkIsolation(cfg.GetNetworkIsolationSpec())
	s.Devices, errs[6] = devices(cfg.Devices)
	return s, errors.Join(errs[:]...)
}

// devices are what Nomad's device plugins reserved for the task.
func devices(reserved []*proto.Device) (out []client.Device, err error) {
	for _, d := range reserved {
		if d.TaskPath != "" && d.TaskPath != d.HostPath {
			return nil, fmt.Errorf("device %s: its plugin has it at %s in the task, and a jail has devices at their "+
				"own paths alone", d.HostPath, d.TaskPath)
		}
		out = append(out, client.Device{Path: d.HostPath, Permissions: d.CgroupPermissions})
	}
	return out, nil
}

// dns is what the group's network or the task's config says of servers for names.
func dns(group *proto.DNSConfig, own client.DNS) (*client.DNS, error) {
	of := client.DNS{Servers: group.GetServers(), Searches: group.GetSearches(), Options: group.GetOptions()}
	switch said, also := !of.IsEmpty(), !own.IsEmpty(); {
	case said && also:
		return nil, errors.New("dns is given by both the group's network block and the config block: remove one")
	case said:
		return &of, of.Check()
	case also:
		return &own, nil
	}
	return nil, nil
}

func limits(cfg *proto.TaskConfig, tc TaskConfig) client.Limits {
	l := client.Limits{MaxProcs: tc.PidsLimit, OpenFiles: tc.OpenFiles}
	r := cfg.GetResources()
	if mem := r.GetAllocatedResources().GetMemory(); mem != nil {
		l.MemoryBytes = mem.MemoryMb << 20
		if mem.MemoryMaxMb > mem.MemoryMb {
			l.MemoryReserveBytes, l.MemoryBytes = l.MemoryBytes, mem.MemoryMaxMb<<20
		}
	}
	l.CPUShares = r.GetAllocatedResources().GetCpu().GetCpuShares()
	l.CPUSet = r.GetLinuxResources().GetCpusetCpus()
	if l.CPUSet == "" { // of Nomad's, without the cores that it reserves for others
		l.CPUSetOf = r.GetLinuxResources().GetCpusetCgroup()
	}
	if share := r.GetLinuxResources().GetPercentTicks(); tc.CPUHard && share > 0 { // of the whole host, on FreeBSD too
		l.CPUPercent = max(1, int(share*float64(runtime.NumCPU())*100))
	}
	return l
}
