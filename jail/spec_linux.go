package jail

import (
	"math"
	"path/filepath"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// baseCaps is what root of a jail may do, as far as Linux can say it.
var baseCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID",
	"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT"}

func processSpec(p Process, caps []string, limits []specs.POSIXRlimit, tty bool) *specs.Process {
	out := &specs.Process{Terminal: tty, Args: p.Args, Env: p.Env, Cwd: p.Dir, NoNewPrivileges: true, Rlimits: limits,
		User:        specs.User{UID: p.UID, GID: p.GID, AdditionalGids: p.Groups, Umask: new(uint32)},
		OOMScoreAdj: usualOOMScore()}
	*out.User.Umask = usualUmask
	if tty && p.Rows > 0 && p.Cols > 0 {
		out.ConsoleSize = &specs.Box{Height: uint(p.Rows), Width: uint(p.Cols)}
	}
	out.Capabilities = &specs.LinuxCapabilities{Bounding: caps}
	if p.UID == 0 {
		out.Capabilities.Effective, out.Capabilities.Permitted = caps, caps
	}
	return out
}

func containerSpec(s Spec, p Process, tty bool) *specs.Spec {
	caps := baseCaps
	if s.Params["allow.raw_sockets"] == "true" {
		caps = append(slices.Clone(caps), "CAP_NET_RAW")
	}
	limits := rlimits(s.Limits)
	spaces := []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.UTSNamespace},
		{Type: specs.MountNamespace}}
	if s.Params["sysvshm"] != "inherit" && s.Params["sysvmsg"] != "inherit" && s.Params["sysvsem"] != "inherit" {
		spaces = append(spaces, specs.LinuxNamespace{Type: specs.IPCNamespace})
	}
	if s.Stack != "" || s.Params["ip4"] == "disable" && s.Params["ip6"] == "disable" {
		spaces = append(spaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: s.Stack})
	}
	c := &specs.Spec{Version: "1.0.2", Hostname: s.Hostname, Root: &specs.Root{Path: s.Root},
		Process: processSpec(p, caps, limits, tty)}
	c.Mounts = []specs.Mount{
		// A bound /dev is left as the caller filled it.
		{Destination: "/dev", Type: "bind", Source: filepath.Join(s.Root, "dev"),
			Options: []string{"rbind", "rprivate"}},
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev",
			"mode=1777", "size=" + strconv.FormatInt(shmSize(s.Limits), 10)}},
	}
	c.Linux = &specs.Linux{
		CgroupsPath: "/freejail/" + s.Name, Namespaces: spaces, Resources: resources(s.Limits, s.Devices),
		MaskedPaths: []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sysrq-trigger",
			"/sys/firmware"},
		ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"},
	}
	return c
}

// shmSize is that of /dev/shm, in bytes: no more than the jail may use at all.
func shmSize(l Limits) int64 {
	const usual = 64 << 20
	if l.MemoryBytes > 0 {
		return min(usual, l.MemoryBytes)
	}
	return usual
}

func resources(l Limits, devices []Device) *specs.LinuxResources {
	r := &specs.LinuxResources{Devices: deviceRules(devices)}
	if l.MemoryBytes > 0 || l.MemoryReserveBytes > 0 {
		r.Memory = &specs.LinuxMemory{}
		if l.MemoryBytes > 0 {
			r.Memory.Limit = &l.MemoryBytes
		}
		if l.MemoryReserveBytes > 0 {
			r.Memory.Reservation = &l.MemoryReserveBytes
		}
	}
	r.CPU = &specs.LinuxCPU{Cpus: l.CPUSet}
	if l.CPUShares > 0 {
		// The kernel's bounds: Documentation/admin-guide/cgroup-v1.
		shares := uint64(min(max(l.CPUShares, 2), 262144))
		r.CPU.Shares = &shares
	}
	if l.CPUPercent > 0 {
		period := uint64(100_000)
		quota := int64(math.Max(1000, float64(l.CPUPercent)*1000))
		r.CPU.Period, r.CPU.Quota = &period, &quota
	}
	if l.MaxProcs > 0 {
		r.Pids = &specs.LinuxPids{Limit: l.MaxProcs}
	}
	return r
}

// deviceRules let a jail open the nodes that can lie in its /dev, and no other but those that it was given.
func deviceRules(given []Device) []specs.LinuxDeviceCgroup {
	out := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, n := range [][2]int64{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 2}, {136, -1}} {
		d := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &n[0], Access: "rwm"}
		if n[1] >= 0 {
			d.Minor = &n[1]
		}
		out = append(out, d)
	}
	for _, g := range given {
		d := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &g.Major, Minor: &g.Minor, Access: g.Access}
		if g.Block {
			d.Type = "b"
		}
		out = append(out, d)
	}
	return out
}
