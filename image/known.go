package image

import (
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/internal/near"
)

// permissions are FreeBSD 15.1's, without "allow.": sys/kern/kern_jail.c, the file
// systems with VFCF_JAIL, and what vmm(4) adds.
var permissions = []string{"adjtime", "chflags", "extattr", "mlock", "mount", "mount.devfs", "mount.fdescfs",
	"mount.fusefs", "mount.lindebugfs", "mount.linprocfs", "mount.linsysfs", "mount.nullfs", "mount.p9fs",
	"mount.procfs", "mount.tmpfs", "mount.zfs", "nfsd", "quotas", "raw_sockets", "read_msgbuf", "reserved_ports",
	"routing", "set_hostname", "setaudit", "settime", "socket_af", "suser", "sysvipc",
	"unprivileged_parent_tampering", "unprivileged_proc_debug", "vmm", "vmm_ppt"}

// jailParameters are FreeBSD 15.1's others: SYSCTL_JAIL_PARAM in sys, and those of
// jail metadata, which FreeBSD 16 has.
var jailParameters = []string{"children.cur", "children.max", "cpuset.id", "devfs_ruleset", "dying", "enforce_statfs",
	"host", "host.domainname", "host.hostid", "host.hostname", "host.hostuuid", "ip4", "ip4.addr", "ip4.saddrsel",
	"ip6", "ip6.addr", "ip6.saddrsel", "jid", "linux", "linux.osname", "linux.osrelease", "linux.oss_version", "mac.do",
	"mac.do.rules", "name", "osreldate", "osrelease", "parent", "path", "persist", "securelevel", "sysvmsg", "sysvsem",
	"sysvshm", "vnet", "zfs", "zfs.mount_snapshot", "meta", "env"}

// CheckPermission refuses what is no jail permission of FreeBSD 15.1, with or without
// "allow.". A host does not ask: its kernel may know more.
func CheckPermission(name string) error {
	name = strings.TrimPrefix(name, "allow.")
	if slices.Contains(permissions, name) {
		return nil
	}
	return fmt.Errorf("%q is not a known jail permission%s", name, near.Hint(name, permissions))
}

// CheckJailParameter is CheckPermission for a parameter that is no permission.
func CheckJailParameter(name string) error {
	if strings.HasPrefix(name, "allow.") {
		return CheckPermission(name)
	}
	group, _, _ := strings.Cut(name, ".")
	if slices.Contains(jailParameters, name) || group == "meta" || group == "env" {
		return nil
	}
	return fmt.Errorf("%q is not a known jail parameter%s", name, near.Hint(name, jailParameters))
}

// architectures are those that images are for, in Go's words, with their variants.
var architectures = map[string][]string{
	"386": {"softfloat", "sse2"}, "amd64": {"v1", "v2", "v3", "v4"}, "arm": {"v5", "v6", "v7", "v8"},
	"arm64": {"v8", "v8.0", "v8.1", "v8.2", "v8.3", "v8.4", "v8.5", "v8.6", "v8.7", "v8.8", "v8.9", "v9", "v9.0",
		"v9.1", "v9.2", "v9.3", "v9.4", "v9.5"},
	"loong64": nil, "mips": nil, "mips64": nil, "mips64le": nil, "mipsle": nil,
	"ppc64":   {"power8", "power9", "power10"},
	"ppc64le": {"power8", "power9", "power10"}, "riscv64": {"rva20u64", "rva22u64", "rva23u64"}, "s390x": nil,
}

// aliases are what systems themselves call an architecture.
var aliases = map[string]string{"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386",
	"powerpc64": "ppc64", "powerpc64le": "ppc64le"}

var systems = []string{"freebsd", "linux"}

// ParsePlatform reads OS/ARCHITECTURE[/VARIANT], in Go's words or the system's own.
func ParsePlatform(text string) (p ocispec.Platform, err error) {
	list := strings.Split(strings.ToLower(text), "/")
	if len(list) < 2 || len(list) > 3 || slices.Contains(list, "") {
		return p, fmt.Errorf("%q is not a valid platform: want OS/ARCHITECTURE, such as freebsd/arm64", text)
	}
	p = ocispec.Platform{OS: list[0], Architecture: architecture(list[1])}
	if len(list) == 3 {
		p.Variant = list[2]
	}
	return p, CheckPlatform(p)
}

// CheckPlatform refuses a platform that no image of this project is for.
func CheckPlatform(p ocispec.Platform) error {
	if !slices.Contains(systems, p.OS) {
		return fmt.Errorf("%q is not a known operating system%s: there are freebsd and linux", p.OS,
			near.Hint(p.OS, systems))
	}
	variants, ok := architectures[architecture(p.Architecture)]
	if !ok {
		names := make([]string, 0, len(architectures))
		for name := range architectures {
			names = append(names, name)
		}
		slices.Sort(names)
		return fmt.Errorf("%q is not a known architecture%s", p.Architecture, near.Hint(p.Architecture, names))
	}
	if p.Variant != "" && !slices.Contains(variants, p.Variant) {
		return fmt.Errorf("%q is not a known variant of %s%s", p.Variant, p.Architecture,
			near.Hint(p.Variant, variants))
	}
	return nil
}
