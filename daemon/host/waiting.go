package host

import (
	"cmp"
	"reflect"
)

// Waiting are the parts of a host's file that differ from the configuration of the daemon that runs, by their names in
// the file. The policy, registries, signers and approvers are never among them: they are read anew; nor is the mirror,
// whose own process follows it.
type Waiting struct {
	Networks []string // names of networks, and default_network
	Upgrade  []string // others that an upgrade of the daemon takes
	Restart  []string // those that the daemon has from its start to its end
}

// WaitingIn compares the configuration of a daemon that runs, but for what its command line says, with that of its
// file now.
func WaitingIn(running, file Config) (w Waiting) {
	was := *cmp.Or(running.written, &running)
	w.Networks = OtherNetworks(was, file)
	add := func(to *[]string, name string, before, now any) {
		if !reflect.DeepEqual(before, now) {
			*to = append(*to, name)
		}
	}
	add(&w.Restart, "state_dir", was.StateDir, file.StateDir)
	add(&w.Restart, "socket", was.Socket, file.Socket)
	was.Metrics.Where, file.Metrics.Where = "", "" // which lines above it change
	for _, p := range []struct {
		name        string
		before, now any
	}{
		{"socket_group", was.SocketGroup, file.SocketGroup}, {"log_level", was.LogLevel, file.LogLevel},
		{"runc", was.Runc, file.Runc}, {"storage", was.Storage, file.Storage}, {"devfs", was.Devfs, file.Devfs},
		{"jail", was.Securelevel, file.Securelevel}, {"consul", was.Consul, file.Consul},
		{"limits", was.Limits, file.Limits}, {"gc", was.GC, file.GC}, {"metrics", was.Metrics, file.Metrics},
		{"tracing", was.Tracing, file.Tracing},
	} {
		add(&w.Upgrade, p.name, p.before, p.now)
	}
	if was.StateDir == file.StateDir { // in which it has files
		add(&w.Upgrade, "nfs", was.NFS, file.NFS)
	}
	return w
}

// Names are those of all parts.
func (w Waiting) Names() (names []string) {
	for _, n := range w.Networks {
		if n != defaultNetwork {
			n = "network " + n
		}
		names = append(names, n)
	}
	return append(append(names, w.Upgrade...), w.Restart...)
}
