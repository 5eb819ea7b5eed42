// Package client speaks to the freejail daemon over its unix socket: the wire
// types of API version 1 and the calls on them.
package client

import (
	"cmp"
	"errors"
	"net/netip"
	"time"

	"github.com/freejail/freejail/internal/printable"
)

// DefaultSocket is where the daemon listens unless it is told otherwise.
const DefaultSocket = "/var/run/freejail.sock"

// TaskSpec is all that the daemon is told about one task. The daemon's policy
// decides about what it asks for; a client cannot go round it.
type TaskSpec struct {
	// ID names the task on this host: 1 to 60 of [A-Za-z0-9_-], a letter first.
	ID string `json:"id"`
	// Owner is who started the task: "nomad" or "cli".
	Owner string `json:"owner"`
	// By is the user who asked for a task of the owner "cli", as the kernel tells the
	// daemon: what a client says here is not used.
	By string `json:"by,omitempty"`
	// Labels are told to Consul and the jail's meta: namespace, job (its name), job_id,
	// group, task, alloc_id, nomad_task_id. Only those of tasks of the owner "nomad" are Nomad's word. Journals of
	// earlier versions are without job_id.
	Labels map[string]string `json:"labels,omitempty"`

	// Image is a name, a digest, the absolute path of an archive or layout, or a
	// reference to a registry, from which it is pulled if it is not there.
	Image string `json:"image"`
	// ForcePull asks the registry even if the image is there.
	ForcePull   bool     `json:"force_pull,omitempty"`
	PullTimeout Duration `json:"pull_timeout,omitempty"` // default 5m
	// Auth is used for the pull, and never kept or told.
	Auth       *Auth             `json:"auth,omitempty"`
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Command    string            `json:"command,omitempty"`
	Args       []string          `json:"args,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
	WorkDir    string            `json:"work_dir,omitempty"`
	User       string            `json:"user,omitempty"`
	// DefaultUser is that of a task for which neither User nor the image names one; without it root.
	DefaultUser string `json:"default_user,omitempty"`
	Hostname    string `json:"hostname,omitempty"`
	// DNS and ExtraHosts (NAME:ADDRESS) are for the task's resolv.conf and hosts.
	DNS        *DNS     `json:"dns,omitempty"`
	ExtraHosts []string `json:"extra_hosts,omitempty"`
	// Parameters are values for the parameters of the image's manifest.
	Parameters map[string]string `json:"parameters,omitempty"`
	// Ports are places on the host by the names of ports. A name that the image does
	// not declare is a port of the job's own.
	Ports map[string]PortBinding `json:"ports,omitempty"`
	// NoPorts is that the task serves none of the ports that its image declares or exposes.
	NoPorts bool `json:"no_ports,omitempty"`

	// Network is one of the host's by its name, host or none; empty is the host's default.
	Network string `json:"network,omitempty"`
	// Publish leads ports of the host to the task's, besides those of Ports.
	Publish []Publication `json:"publish,omitempty"`
	// Addresses are fixed ones of the network's pools, at most one of each family.
	Addresses []string `json:"addresses,omitempty"`
	// Share is "group" where all tasks of the allocation have one network stack.
	Share string `json:"share,omitempty"`

	// Dirs are the task's own directories on the host, made by the client.
	Dirs []Mount `json:"dirs,omitempty"`
	// Confined are directories on the host that hold what the task's user
	// wrote: a symbolic link below one of them that leads out of it is refused
	// in Image, Dirs, Volumes, Stdout and Stderr.
	Confined []string `json:"confined,omitempty"`

	Volumes []Mount   `json:"volumes,omitempty"`
	Devices []Device  `json:"devices,omitempty"`
	Wants   Wants     `json:"wants"`
	Limits  Limits    `json:"limits"`
	Storage string    `json:"storage,omitempty"`
	Wait    string    `json:"wait,omitempty"`
	Service Overrides `json:"service"`

	// Stdout and Stderr are paths of FIFOs or files that the process gets as
	// they are; empty means log files that the daemon keeps.
	Stdout      string   `json:"stdout,omitempty"`
	Stderr      string   `json:"stderr,omitempty"`
	StopSignal  string   `json:"stop_signal,omitempty"`
	StopTimeout Duration `json:"stop_timeout,omitempty"`

	// Interactive gives the process an input that clients write to; without it the
	// input is empty. With TTY input and outputs are a terminal of so many characters
	// in Rows and Cols, and all output is of the stream stdout.
	Interactive bool `json:"interactive,omitempty"`
	TTY         bool `json:"tty,omitempty"`
	Rows        int  `json:"rows,omitempty"`
	Cols        int  `json:"cols,omitempty"`
	// Attach tells that the client attaches to the task at once. The input of a task
	// without a terminal ends with that client.
	Attach bool `json:"attach,omitempty"`
	// Remove has the daemon remove the task when it has ended and no client is attached.
	Remove bool `json:"remove,omitempty"`
}

// NomadLabels are what Nomad says of its task, such as its namespace; nil for other tasks.
func (s TaskSpec) NomadLabels() map[string]string {
	if s.Owner != "nomad" {
		return nil
	}
	return s.Labels
}

// Auth is a user of a registry. It shows as nothing where it is printed.
type Auth struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// String hides the secret.
func (Auth) String() string { return "(credentials)" }

// GoString hides the secret.
func (Auth) GoString() string { return "(credentials)" }

// Device is a node of the host's /dev by its path, which is the same in the task. Permissions are of r (read), w
// (write) and m (make the node), each at most once.
type Device struct {
	Path        string `json:"path"`
	Permissions string `json:"permissions"`
}

// PortBinding is where on the host a port is to be found.
type PortBinding struct {
	Address string `json:"address,omitempty"` // empty is all addresses
	Port    int    `json:"port"`              // 1 to 65535; 0 is the image's own number
	// Protocol is tcp or udp; empty is the image's, and of a job's own port tcp.
	Protocol string `json:"protocol,omitempty"`
	// Label is the orchestrator's name of the port, and To the port inside of the task
	// to which its job would have it mapped; 0 is none.
	Label string `json:"label,omitempty"`
	To    int    `json:"to,omitempty"`
	// Offered tells that the orchestrator has the port for all tasks of the allocation, and the
	// job does not say for which of them it is.
	Offered bool `json:"offered,omitempty"`
}

// Publication leads ports of the host to those of a task.
type Publication struct {
	Address  string `json:"address,omitempty"` // of the host; empty is all of its addresses
	Port     int    `json:"port"`              // of the host, the first
	To       int    `json:"to"`                // of the task, the first
	Count    int    `json:"count,omitempty"`   // how many follow one another from these on; 0 is one
	Protocol string `json:"protocol"`          // tcp or udp
}

// Mount is a host path that appears in the jail. Name ties it to a volume of
// the manifest.
type Mount struct {
	Name     string `json:"name,omitempty"`
	Type     string `json:"type,omitempty"` // default nullfs; tmpfs
	Source   string `json:"source,omitempty"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"read_only,omitempty"`
	Private  bool   `json:"private,omitempty"` // becomes the task's user's alone; of Dirs only
	// Options are separated by commas: size=BYTES, mode=1777, noexec, suid, ...
	Options string `json:"options,omitempty"`
}

// Wants are the privileges that the job, not the image, asks for.
type Wants struct {
	Devfs   []string          `json:"devfs,omitempty"`
	Allow   []string          `json:"allow,omitempty"`
	Jail    map[string]string `json:"jail,omitempty"`
	Sysctl  map[string]string `json:"sysctl,omitempty"`
	SysVIPC map[string]string `json:"sysvipc,omitempty"`
	VNET    bool              `json:"vnet,omitempty"`
}

// Limits of one task; 0 means no limit.
type Limits struct {
	MemoryBytes        int64  `json:"memory_bytes,omitempty"` // hard limit
	MemoryReserveBytes int64  `json:"memory_reserve_bytes,omitempty"`
	CPUShares          int64  `json:"cpu_shares,omitempty"`  // relative weight; Nomad's MHz
	CPUPercent         int    `json:"cpu_percent,omitempty"` // 100 is one core
	MaxProcs           int64  `json:"max_procs,omitempty"`
	OpenFiles          int64  `json:"open_files,omitempty"`
	CPUSet             string `json:"cpuset,omitempty"` // "0-2,5"
	// CPUSetOf is a cgroup of Linux: without CPUSet a task runs on its processors, also when they change.
	CPUSetOf string `json:"cpuset_of,omitempty"`
	// DiskBytes are what the task may write to its root; 0 asks for what the host
	// gives. The daemon tells what the task has.
	DiskBytes int64 `json:"disk_bytes,omitempty"`
}

// Overrides change or switch off the Consul services of the manifest's ports.
type Overrides struct {
	Disabled bool                    `json:"disabled,omitempty"`
	Ports    map[string]PortOverride `json:"ports,omitempty"`
	// ShutdownDelay is the time from their removal from Consul until a task that is stopped gets its signal.
	ShutdownDelay Duration `json:"shutdown_delay,omitempty"`
}

// PortOverride changes the service of one port.
type PortOverride struct {
	Disabled bool     `json:"disabled,omitempty"`
	Name     string   `json:"name,omitempty"`
	Tags     []string `json:"tags,omitempty"`
	Address  string   `json:"address,omitempty"`
}

// State of a task.
type State string

// The states that a task goes through, in this order.
const (
	Starting State = "starting"
	Running  State = "running"
	Stopping State = "stopping"
	Exited   State = "exited"
	// Left is the state of what could not be removed yet of a task that is forgotten.
	// Its ID may be another task's; its Key is not.
	Left State = "left"
)

// Task is what the daemon knows of a task.
type Task struct {
	ID   string   `json:"id"` // that of the Spec
	Spec TaskSpec `json:"spec"`
	// Key names what the task has on this host: it is the ID, or where something of
	// an earlier task with that ID was left, the ID, a dot and a number.
	Key       string        `json:"key,omitempty"`
	State     State         `json:"state"`
	Jail      string        `json:"jail"`
	JID       int           `json:"jid,omitempty"`
	PID       int           `json:"pid,omitempty"`
	Root      string        `json:"root,omitempty"`
	Digest    string        `json:"digest,omitempty"`
	Ruleset   int           `json:"ruleset,omitempty"`
	Storage   string        `json:"storage,omitempty"`
	Ports     []Port        `json:"ports,omitempty"`
	Network   *NetworkInfo  `json:"network,omitempty"` // nil is the host's
	CreatedAt time.Time     `json:"created_at"`
	StartedAt time.Time     `json:"started_at"`
	Exit      *Exit         `json:"exit,omitempty"`
	Services  []ServiceInfo `json:"services,omitempty"`
	// Recovering tells that the daemon has not found out yet what became of the task.
	Recovering bool `json:"recovering,omitempty"`
	// Unhealthy is what is wrong with the root of a task that runs, in words.
	Unhealthy string `json:"unhealthy,omitempty"`
	// Written are the bytes that the task had written to its root when that was
	// measured last; 0 where it has no limit, or the file system keeps it.
	Written int64 `json:"written,omitempty"`
	// OverDisk tells, in words, that the daemon ends the task for what it wrote.
	OverDisk string `json:"over_disk,omitempty"`
	// Left tells, in words, what of a task that has ended is still on the host.
	Left string `json:"left,omitempty"`
}

// NetworkInfo is what a task has of a network; see network.Endpoint. It does not change as long
// as the task lives.
type NetworkInfo struct {
	Name  string     `json:"name"`
	Mode  string     `json:"mode"`
	Stack string     `json:"stack,omitempty"`
	Link  string     `json:"link,omitempty"`
	MAC   string     `json:"mac,omitempty"`
	Addr4 netip.Addr `json:"ipv4,omitzero"`
	Addr6 netip.Addr `json:"ipv6,omitzero"`
}

// NetworkStatus is a network of the host as it is now.
type NetworkStatus struct {
	Name       string   `json:"name"`
	Mode       string   `json:"mode"`
	Default    bool     `json:"default,omitempty"` // of tasks that name none
	Subnets    []string `json:"subnets,omitempty"`
	Pools      []string `json:"pools,omitempty"` // FIRST-LAST, of which tasks get addresses
	Gateways   []string `json:"gateways,omitempty"`
	Bridge     string   `json:"bridge,omitempty"`
	Interface  string   `json:"interface,omitempty"`
	DNS        []string `json:"dns,omitempty"` // empty is the host's
	Isolate    bool     `json:"isolate,omitempty"`
	HostAccess []string `json:"host_access,omitempty"` // ports of the host's own services, as 53/udp
	MTU        int      `json:"mtu,omitempty"`
	Used       int      `json:"used"`               // addresses of its smaller pool that are in use or rest
	Size       int      `json:"size"`               // all of them; 0 where its tasks get none
	Tasks      []string `json:"tasks,omitempty"`    // ids of those that have not ended
	Problems   []string `json:"problems,omitempty"` // what keeps tasks from having it, in words
}

// Address is the task's own; not valid where it has none.
func (n *NetworkInfo) Address() netip.Addr {
	switch {
	case n == nil:
		return netip.Addr{}
	case n.Addr4.IsValid():
		return n.Addr4
	}
	return n.Addr6
}

// Port is a port of a task with its place on the host.
type Port struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
	Address  string `json:"address,omitempty"`
	// Port is the host's; 0 where no port of the host leads to a task with addresses of its own.
	Port int `json:"port"`
	// To is the port inside of the task's own network stack, or at its own address; 0 is Port.
	To int `json:"to,omitempty"`
	// Count is how many ports follow one another from Port and To on; 0 is one.
	Count int `json:"count,omitempty"`
	// Job is that the job alone names it: the image declares no such port.
	Job bool `json:"job,omitempty"`
	// Exposed is that it is only said to be served, by EXPOSE of an image without a
	// manifest: it is not kept for the task.
	Exposed bool `json:"exposed,omitempty"`
}

// Inside is the port where the program listens.
func (p Port) Inside() int { return cmp.Or(p.To, p.Port) }

// ServiceInfo is one Consul entry of a task.
type ServiceInfo struct {
	Name       string `json:"name"`
	ID         string `json:"id"`
	Registered bool   `json:"registered"`
	Error      string `json:"error,omitempty"`
	// By is whose entry has the port instead, in words: the job's own service, or that of
	// another task of the allocation. Health is then of its checks.
	By string `json:"by,omitempty"`
	// Health is what its checks say: starting, healthy, warning, unhealthy or
	// unknown; empty where it has none. Output is what the worst of them says.
	Health string `json:"health,omitempty"`
	Output string `json:"output,omitempty"`
}

// Exit is how a task ended. Known is false where the system could not tell:
// Code is then meaningless.
type Exit struct {
	Code   int  `json:"code"`
	Signal int  `json:"signal,omitempty"`
	Known  bool `json:"known"`
	OOM    bool `json:"oom,omitempty"`
	Disk   bool `json:"disk,omitempty"` // killed over its disk limit; Message has it
	// Host is that it ended with the host: told to at its shutdown, or gone after a
	// restart; Message has it.
	Host    bool      `json:"host,omitempty"`
	Message string    `json:"message,omitempty"`
	At      time.Time `json:"at"`
}

// Ended is a task that is over. Exit is nil of one that is not.
type Ended struct {
	ID   string `json:"id"`
	Exit *Exit  `json:"exit,omitempty"`
}

// Usage is one sample of a task's use of resources.
type Usage struct {
	At time.Time `json:"at"`
	// Clock is when it was taken by a clock that nobody sets; 0 from older daemons.
	Clock    time.Duration `json:"clock_ns,omitempty"`
	UserTime time.Duration `json:"user_ns"`
	SysTime  time.Duration `json:"sys_ns"`
	RSS      uint64        `json:"rss"`
	// Memory is what counts for the task's limit, in bytes; 0 from older daemons.
	Memory uint64 `json:"memory,omitempty"`
	// Cache are the pages of files among Memory, in bytes; nil on FreeBSD, where they do not count.
	Cache *uint64     `json:"cache,omitempty"`
	Swap  *uint64     `json:"swap,omitempty"` // nil where the kernel does not tell, as FreeBSD's
	Procs []ProcUsage `json:"procs,omitempty"`
	// Traffic is that of a task with a network stack of its own; nil of another one.
	Traffic *Traffic `json:"traffic,omitempty"`
}

// Traffic is what went through the link of a task's network stack: In is what was received. Tasks that share
// a stack have the same.
type Traffic struct {
	BytesIn    uint64 `json:"bytes_in"`
	BytesOut   uint64 `json:"bytes_out"`
	PacketsIn  uint64 `json:"packets_in"`
	PacketsOut uint64 `json:"packets_out"`
}

// ProcUsage is the use of one process of a task.
type ProcUsage struct {
	PID      int           `json:"pid"`
	Command  string        `json:"command,omitempty"`
	UserTime time.Duration `json:"user_ns"`
	SysTime  time.Duration `json:"sys_ns"`
	RSS      uint64        `json:"rss"`
}

// Info describes the daemon and its host.
type Info struct {
	Version      string `json:"version"`
	API          int    `json:"api"`
	PID          int    `json:"pid"`
	StateDir     string `json:"state_dir"`
	Storage      string `json:"storage"`
	PolicyDigest string `json:"policy_digest"`
	PolicyError  string `json:"policy_error,omitempty"`
	Config       string `json:"config,omitempty"` // the path of the host's file
	// Waiting are the parts of the file, by their names, that are not in force: WaitingRestart those of them for which
	// the daemon has to be stopped and started, the others take an upgrade.
	Waiting        []string          `json:"waiting,omitempty"`
	WaitingRestart []string          `json:"waiting_restart,omitempty"`
	Features       map[string]string `json:"features"`
	// Networks are the modes of those that tasks can have now, by their names; DefaultNetwork is that
	// of tasks which name none.
	Networks       map[string]string `json:"networks,omitempty"`
	DefaultNetwork string            `json:"default_network,omitempty"`
	Healthy        bool              `json:"healthy"`
	Reason         string            `json:"reason,omitempty"`
	Tasks          int               `json:"tasks"`
	Recovering     string            `json:"recovering,omitempty"` // how far the recovery is; empty when it is over
	ShutDown       bool              `json:"shut_down,omitempty"`  // the tasks ended with the host; none is started
	// Generation changes with every start and every upgrade of the daemon.
	Generation  string `json:"generation"`
	MemoryBytes uint64 `json:"memory_bytes"` // heap and stacks in use
	// MemoryLiveBytes are those without garbage, as of the last collection; 0 from older daemons.
	MemoryLiveBytes uint64 `json:"memory_live_bytes,omitempty"`
}

// UpgradeRequest asks for an upgrade. A daemon has the configuration and the state directory of its start for good:
// where others are named, the request is refused.
type UpgradeRequest struct {
	Binary   string `json:"binary,omitempty"`    // empty is the file of the running one
	Config   string `json:"config,omitempty"`    // an absolute path
	StateDir string `json:"state_dir,omitempty"` // an absolute path
}

// Event is something that happened to a task, in words for its owner.
type Event struct {
	Seq     uint64            `json:"seq"`
	At      time.Time         `json:"at"`
	Task    string            `json:"task,omitempty"`
	Kind    string            `json:"kind"` // one of EventKinds
	Message string            `json:"message"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// EventKinds are the kinds of events.
var EventKinds = []string{"approval", "check", "cleanup", "consul", "copy", "damaged", "exited", "exported",
	"failed", "healthy", "killing", "limits", "log", "lost", "metrics", "network", "policy", "ports", "pulled",
	"pulling", "refused", "removed", "started", "stopping", "trace", "unexported", "unhealthy", "unpacking"}

// ImageInfo is one image in the host's store.
type ImageInfo struct {
	Name       string    `json:"name"`
	Digest     string    `json:"digest"`
	OS         string    `json:"os"`
	Arch       string    `json:"arch"`
	Size       int64     `json:"size"`     // of the layers as they are stored, in bytes
	Shared     int64     `json:"shared"`   // of those, what other images have too
	Unpacked   int64     `json:"unpacked"` // on the disk, in bytes; 0 where it is not unpacked
	Tasks      []string  `json:"tasks"`    // that have not ended and run it
	Created    time.Time `json:"created"`
	Summary    string    `json:"summary,omitempty"`
	Usage      string    `json:"usage,omitempty"`
	Parameters []string  `json:"parameters,omitempty"`
	Ports      []string  `json:"ports,omitempty"`
	Requests   []string  `json:"requests,omitempty"`
	Signers    []string  `json:"signers,omitempty"` // whose signatures were verified
	// ArchiveName is, after an import without a name, another one that the archive gives the image.
	ArchiveName string `json:"archive_name,omitempty"`
	// Reused is, after a pull, how many bytes of its layers were not fetched, as other layers of the host had them.
	Reused int64 `json:"reused,omitempty"`
	// Sources are, after a pull, where its layers came from, if its registry has mirrors.
	Sources []ImageSource `json:"sources,omitempty"`
	// Problem is, in a list, why the image cannot be read, and what to do. Then
	// only its name and digest are known.
	Problem string `json:"problem,omitempty"`
}

// ImageSource is the registry of an image or a mirror of it.
type ImageSource struct {
	Host   string `json:"host"`
	Mirror bool   `json:"mirror"`
	Bytes  int64  `json:"bytes"` // that it has sent
	// PassedOver is why a mirror was asked after the others.
	PassedOver string `json:"passed_over,omitempty"`
}

// Export is one image that this host exports as a root over NFS. Problem is why
// clients cannot have it now, and Fix what to do about that.
type Export struct {
	Names   []string `json:"names"`
	Digest  string   `json:"digest"`
	Path    string   `json:"path"`
	URL     string   `json:"url"` // for servers in a client's configuration
	Problem string   `json:"problem,omitempty"`
	Fix     string   `json:"fix,omitempty"`
}

// ExportRequest names an image of the host's.
type ExportRequest struct {
	Image string `json:"image"`
}

// ImportRequest names an archive or layout directory on the daemon's host.
type ImportRequest struct {
	Path string `json:"path"`
	Name string `json:"name,omitempty"`
}

// LoadRequest names an archive or layout directory on the daemon's host, all of whose images are imported by their own
// names. Name is what messages call the archive, instead of its path.
type LoadRequest struct {
	Path string `json:"path"`
	Name string `json:"name,omitempty"`
}

// Loaded is one image of an archive: what it is here, or why it is not. Name is the archive's, Was the digest that
// the name had here before, if that was another image. Image has nothing of what the image says of itself.
type Loaded struct {
	Name  string     `json:"name"`
	Image *ImageInfo `json:"image,omitempty"`
	Was   string     `json:"was,omitempty"`
	Error *Error     `json:"error,omitempty"`
}

// LoadResult tells of all images of an archive. Nameless counts those that were left out as they have no name there.
type LoadResult struct {
	Images   []Loaded `json:"images"`
	Nameless int      `json:"nameless,omitempty"`
}

// SaveRequest names images of the store, by names or digests.
type SaveRequest struct {
	Images   []string `json:"images"`
	Unsigned bool     `json:"unsigned,omitempty"` // without signatures and approvals
}

// PullRequest names an image of a registry.
type PullRequest struct {
	Ref     string   `json:"ref"`
	Timeout Duration `json:"timeout,omitempty"` // default 5m
}

// Untagged tells which names an image has lost. Tasks are those that run it where it has no name any more: they keep
// what is stored of it.
type Untagged struct {
	Digest string   `json:"digest"`
	Names  []string `json:"names"`
	Tasks  []string `json:"tasks"`
}

// TagRequest names an image of the store, and the name that it is to have too.
type TagRequest struct {
	Image string `json:"image"`
	Name  string `json:"name"`
}

// ImageProgress is how far a pull, an import or a load has come; the last has the image,
// what was loaded, or the error.
type ImageProgress struct {
	Layers     int         `json:"layers,omitempty"`
	LayersDone int         `json:"layers_done,omitempty"`
	Size       int64       `json:"size,omitempty"` // of all layers, in bytes as they are stored
	Done       int64       `json:"done,omitempty"`
	Reused     int64       `json:"reused,omitempty"` // of what is done: see ImageInfo
	Image      *ImageInfo  `json:"image,omitempty"`
	Loaded     *LoadResult `json:"loaded,omitempty"`
	Error      *Error      `json:"error,omitempty"`
}

// GCRequest overrides the host's gc settings for one collection; nil leaves
// them.
type GCRequest struct {
	// Older is how long an image that was given by a path must have been
	// unused to be forgotten; 0 forgets none by age.
	Older *time.Duration `json:"older,omitempty"`
	// MaxSize is how large the images may be together, in bytes, before the
	// longest unused of those given by a path are forgotten; 0 is no limit.
	MaxSize *int64 `json:"max_size,omitempty"`
}

// GCResult tells what a collection freed.
type GCResult struct {
	Images []string `json:"images,omitempty"` // names that it has forgotten
	Chains int      `json:"chains"`
	Tasks  int      `json:"tasks"`
	Bytes  int64    `json:"bytes"`
	// Problems are of images that cannot be read, whose blobs it has left, and
	// what to do; and of what cannot be removed.
	Problems []string `json:"problems,omitempty"`
}

// DiskUse is what freejail has on the disk, in bytes.
type DiskUse struct {
	StateDir string     `json:"state_dir"`
	Total    int64      `json:"total"` // of the file system of the state directory
	Free     int64      `json:"free"`
	Parts    []DiskPart `json:"parts"`
}

// DiskPart is one kind of what there is: images, unpacked (images), roots (what tasks wrote there), records (journals
// and logs of tasks), volumes.
type DiskPart struct {
	Kind   string `json:"kind"`
	Count  int    `json:"count"`
	Active int    `json:"active"` // those of tasks that have not ended
	// Measured is false where nothing is known of the bytes.
	Measured    bool  `json:"measured"`
	Bytes       int64 `json:"bytes"`
	Shared      int64 `json:"shared,omitempty"` // of those, what several images have, as it is stored
	Reclaimable int64 `json:"reclaimable"`      // by a collection
}

// Decision is the policy's word on an image's or task's requests. Approve is
// the command by which an operator can approve what is refused, Sign that of the Givers: approvers of the
// host's file, whose approvals are for all hosts that have their keys.
type Decision struct {
	Image   string   `json:"image"`
	Digest  string   `json:"digest"`
	Signers []string `json:"signers,omitempty"` // whose signatures were verified
	Allowed bool     `json:"allowed"`
	Results []Result `json:"results"`
	Approve string   `json:"approve,omitempty"`
	Sign    string   `json:"sign,omitempty"`
	Givers  []string `json:"givers,omitempty"`
	// Notes are what no policy decides, such as that ports are not enforced.
	Notes []string `json:"notes,omitempty"`
}

// Result is the policy's word on one request. Key names the request in an
// approval; Permit is a block for the host's file that would permit it.
type Result struct {
	Request string `json:"request"`
	Kind    string `json:"kind"`
	Key     string `json:"key"`
	Source  string `json:"source"`
	Allowed bool   `json:"allowed"`
	Reason  string `json:"reason"`
	Permit  string `json:"permit,omitempty"`
}

// Approval is an operator's override for one image digest.
type Approval struct {
	ID       string    `json:"id"`
	Digest   string    `json:"digest"`
	Image    string    `json:"image,omitempty"`
	Requests []string  `json:"requests"` // their keys
	By       string    `json:"by"`
	Why      string    `json:"why"`
	At       time.Time `json:"at"`
	Expires  time.Time `json:"expires,omitzero"`
	Expired  bool      `json:"expired,omitempty"`
	// Approver is whose key has signed it for a fleet; empty of one of this host. Problem is
	// why one of a fleet does not count now.
	Approver string `json:"approver,omitempty"`
	Problem  string `json:"problem,omitempty"`
	// Unasked are those of Requests, as they were given, that the image does not ask for itself. Approve alone tells.
	Unasked []string `json:"unasked,omitempty"`
}

// ApprovalRecord is an entry of the log of approvals. Action is approve or
// revoke or expire, with By, At and Why of that.
type ApprovalRecord struct {
	Action   string    `json:"action"`
	Approval Approval  `json:"approval"`
	By       string    `json:"by,omitempty"`
	At       time.Time `json:"at,omitzero"`
	Why      string    `json:"why,omitempty"`
}

// Reloaded is what was read again beside the host's file.
type Reloaded struct {
	Revocations []RevocationList `json:"revocations"`
}

// RevocationList is what is known of an approver's list, from an address or a file, when it was just asked for. Serial
// is that of the newest, 0 where there is none; Revoked counts what it and others by the same key revoke.
type RevocationList struct {
	Approver string    `json:"approver"`
	From     string    `json:"from"`
	Serial   uint64    `json:"serial"`
	Issued   time.Time `json:"issued,omitzero"`
	Revoked  int       `json:"revoked"`
	Error    string    `json:"error,omitempty"`
}

// ApproveRequest approves requests, by their keys, for an image's digest: NAME,
// DIGEST or NAME@DIGEST. Without any it approves all that the image asks for.
// Who approves is told by the kernel.
type ApproveRequest struct {
	Image    string    `json:"image"`
	Requests []string  `json:"requests,omitempty"`
	Unknown  []string  `json:"unknown,omitempty"` // names of permissions and parameters that only newer kernels have
	Why      string    `json:"why"`
	Expires  time.Time `json:"expires,omitzero"`
}

// Node is a device node of the host, and what a jail would see of it.
type Node struct {
	Path    string `json:"path"` // below /dev
	Visible bool   `json:"visible"`
	Rule    string `json:"rule"` // that decided
	From    string `json:"from"` // open, image, close, or first
	Mode    string `json:"mode,omitempty"`
	// Types are those of devfs(8) for which alone it is visible.
	Types []string `json:"types,omitempty"`
}

// DevfsView is what a jail of an image would see of the host's /dev.
type DevfsView struct {
	Image string   `json:"image"`
	Rules []string `json:"rules"`
	Nodes []Node   `json:"nodes"`
}

// Ruleset is one devfs ruleset of the registry.
type Ruleset struct {
	ID      int      `json:"id"`
	Rules   []string `json:"rules"`
	Holders []string `json:"holders"`
}

// Check is one line of doctor's report. Status is ok, warning or error.
type Check struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

// ExecSpec is a command to run in a task's jail.
type ExecSpec struct {
	Args    []string          `json:"args"`
	Env     map[string]string `json:"env,omitempty"`
	WorkDir string            `json:"work_dir,omitempty"`
	User    string            `json:"user,omitempty"`
	TTY     bool              `json:"tty,omitempty"`
	Rows    int               `json:"rows,omitempty"`
	Cols    int               `json:"cols,omitempty"`
}

// TraceSpec is what is to be seen of a task's processes, those to come too.
type TraceSpec struct {
	// What is "syscalls", "files" (those that look up a path), "net" (those with an address) or "dtrace".
	What string `json:"what"`
	// Ready is the name of a script for dtrace(1) that comes with freejail, Script the text of another one; its
	// $1 is the jail's id.
	Ready  string `json:"ready,omitempty"`
	Script string `json:"script,omitempty"`
	// Limit and Size bound the trace; 0 is DefaultTraceLimit and DefaultTraceSize.
	Limit Duration `json:"limit,omitempty"`
	Size  int64    `json:"size,omitempty"` // bytes, as the system writes it
}

// Bounds of traces.
const (
	DefaultTraceLimit = 30 * time.Second
	DefaultTraceSize  = 64 << 20
	MaxTraceLimit     = time.Hour
	MinTraceSize      = 64 << 10
	MaxTraceSize      = 1 << 30
	MaxTraceScript    = 64 << 10
)

// TraceEvent is one thing that is told of a trace: the first has Began, the last End or Error, the others a line.
type TraceEvent struct {
	Began *TraceBegan `json:"began,omitempty"`
	Line  string      `json:"line,omitempty"`
	End   *TraceEnd   `json:"end,omitempty"`
	Error *Error      `json:"error,omitempty"`
}

// TraceBegan tells that processes are traced, and the bounds of that.
type TraceBegan struct {
	Processes int      `json:"processes"`
	Limit     Duration `json:"limit"`
	Size      int64    `json:"size"`
}

// TraceEnd is why a trace ended.
type TraceEnd struct {
	// Why is "time", "size", "task" (it has no process any more), "space" (no room on the host) or "script".
	Why   string `json:"why"`
	Bytes int64  `json:"bytes"`
}

// CopySpec asks for a copy out of a task's root, or into it, as a tar archive.
type CopySpec struct {
	// Path is one in the task. A link at its end is copied itself, but one with a slash behind it is followed.
	Path string `json:"path"`
	In   bool   `json:"in,omitempty"`
	// Name and Contents are of what is copied in; see treecopy.Source.
	Name     string `json:"name,omitempty"`
	Contents bool   `json:"contents,omitempty"`
	// Follow copies what a link at the end of the path leads to.
	Follow bool `json:"follow,omitempty"`
	// Owners keeps owners, and the set-user-id and set-group-id bits, of what is copied in: else it is root's.
	Owners bool `json:"owners,omitempty"`
	// MaxBytes bounds the files together; 0 is DefaultCopyBytes.
	MaxBytes int64 `json:"max_bytes,omitempty"`
}

// DefaultCopyBytes bounds a copy for which nothing else is said.
const DefaultCopyBytes = 64 << 30

// StopRequest ends a task: the signal first, SIGKILL after the timeout.
type StopRequest struct {
	Signal  string   `json:"signal,omitempty"` // empty: the image's, else SIGTERM
	Timeout Duration `json:"timeout"`
}

// ShutdownRequest ends all tasks as a shutdown of the host does: each has its own
// time. The limit, or 0 for none, is for all of it: its last 10 s, or its second
// half where it is below 20 s, are for killing and sweeping up.
type ShutdownRequest struct {
	Limit Duration `json:"limit,omitempty"`
}

// ShutdownResult tells the ids of the tasks that ended, of those among them that
// were killed as their time was over, and of those that are still there.
type ShutdownResult struct {
	Ended  []string `json:"ended"`
	Killed []string `json:"killed"`
	Left   []string `json:"left"`
}

// DefaultStopTimeout is how long a task has to end where neither it nor its image
// says so.
const DefaultStopTimeout = 10 * time.Second

// Duration is a time.Duration written as text ("5s") in JSON.
type Duration time.Duration

// MarshalText gives Go's notation.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText takes Go's notation.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Error codes of the API.
const (
	CodeInvalid     = "invalid"
	CodeNotFound    = "not_found"
	CodeConflict    = "conflict"
	CodeRefused     = "refused"
	CodeUnavailable = "unavailable"
	CodeRecovering  = "recovering" // the daemon has just begun; the client makes the same call again
	CodeUpgrading   = "upgrading"  // the same call, made again, has the new daemon's answer
	CodeInternal    = "internal"
)

// Error is what the daemon answers when it cannot do what it was asked.
type Error struct {
	Code     string    `json:"code"`
	Message  string    `json:"message"`
	Decision *Decision `json:"decision,omitempty"`
	// Exit is the exit code by which shells tell of a program that was not executed: 127
	// where there is none, 126 where it cannot be; else 0.
	Exit int `json:"exit,omitempty"`
}

// Errorf is an error whose message is a format of ours with values of others,
// which begin no line and steer no terminal.
func Errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: printable.Sprintf(format, args...)}
}

// Invalid is the error of a request that can never be granted as it is.
func Invalid(format string, args ...any) error { return Errorf(CodeInvalid, format, args...) }

// NotFound is the error of a request about something that does not exist.
func NotFound(format string, args ...any) error { return Errorf(CodeNotFound, format, args...) }

// Conflict is the error of a request that the present state of its subject rules out.
func Conflict(format string, args ...any) error { return Errorf(CodeConflict, format, args...) }

// Refused is the error of a request that its sender is not permitted.
func Refused(format string, args ...any) error { return Errorf(CodeRefused, format, args...) }

// Unavailable is the error of a request that may be granted later.
func Unavailable(format string, args ...any) error { return Errorf(CodeUnavailable, format, args...) }

// AsError is the *Error in err, or one that tells err as internal.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return Errorf(CodeInternal, "%v", err)
}

func (e *Error) Error() string { return e.Message }

// Printable is the message with its lines: they are the daemon's.
func (e *Error) Printable() string { return e.Message }

// IsNotFound reports whether err says that there is no such thing.
func IsNotFound(err error) bool { return hasCode(err, CodeNotFound) }

// IsRefused reports whether err is the policy's refusal.
func IsRefused(err error) bool { return hasCode(err, CodeRefused) }

// IsUpgrading reports whether an upgrade of the daemon has broken off what was asked.
func IsUpgrading(err error) bool { return hasCode(err, CodeUpgrading) }
