package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
)

// nfsHost is a second host: a jail with a network of its own, in which the base
// system's NFS server runs. Its roots lie in a tmpfs, which a daemon of this
// host fills.
type nfsHost struct {
	t        *testing.T
	dir      string // of the jail's root on this host
	name     string
	ours     string // this host's end of the cable
	theirs   string
	addr     string // the server's
	exporter *client.Client
	file     string // that the exporter writes
}

// command runs a program of the base system.
func command(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func startNFSHost(t *testing.T) *nfsHost {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	if v, err := sysctl("kern.features.vimage"); err != nil || v != "1" {
		t.Skip("the kernel has no VNET: there can be no second host")
	}
	for _, program := range []string{"/usr/sbin/mountd", "/usr/sbin/nfsd", "/usr/sbin/rpcbind"} {
		if _, err := os.Stat(program); err != nil {
			t.Skipf("the NFS server of the base system is not installed: %v", err)
		}
	}
	h := &nfsHost{t: t, dir: shortDir(t), name: "nfs" + strconv.Itoa(os.Getpid()), addr: "10.213.97.2"}
	h.tree()
	h.ours = command(t, "ifconfig", "epair", "create")
	h.theirs = strings.TrimSuffix(h.ours, "a") + "b"
	t.Cleanup(func() { command(t, "ifconfig", h.ours, "destroy") })
	command(t, "ifconfig", h.ours, "inet", "10.213.97.1/24", "up")
	command(t, "jail", "-c", "name="+h.name, "path="+h.dir, "host.hostname=server", "vnet", "vnet.interface="+h.theirs,
		"allow.nfsd", "enforce_statfs=1", "allow.sysvipc", "persist")
	t.Cleanup(func() { h.stop() })
	h.in("ifconfig", "lo0", "127.0.0.1/8", "up")
	h.in("ifconfig", h.theirs, "inet", h.addr+"/24", "up")
	h.export()
	h.serve()
	return h
}

// tree is this host's own files, with what a server writes to in memory.
func (h *nfsHost) tree() {
	for _, m := range []mount.Mount{
		{Type: "nullfs", Source: "/", Target: h.dir, Options: []string{"ro"}},
		{Type: "devfs", Target: h.dir + "/dev"},
		{Type: "tmpfs", Target: h.dir + "/var/run", Options: []string{"mode=755"}},
		{Type: "tmpfs", Target: h.dir + "/var/db", Options: []string{"mode=755"}},
		{Type: "tmpfs", Target: h.dir + "/mnt", Options: []string{"mode=755"}},
	} {
		if err := mount.Do(m); err != nil {
			h.t.Fatal(err)
		}
	}
	for _, f := range []string{"nfs-stablerestart", "nfs-stablerestart.bak", "mountdtab"} {
		if err := os.WriteFile(filepath.Join(h.dir, "var/db", f), nil, 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h *nfsHost) in(args ...string) string {
	h.t.Helper()
	return command(h.t, append([]string{"jexec", h.name}, args...)...)
}

// export runs the daemon that exports. It knows the tree by this host's paths.
func (h *nfsHost) export() {
	dir := shortDir(h.t)
	h.file = filepath.Join(dir, "exports")
	h.exporter, _ = daemonAt(h.t, dir, fmt.Sprintf("nfs {\n  export {\n    dir = %q\n    clients = [\"10.213.97.0/24\"]\n    exports_file = %q\n  }\n}\n", h.dir+"/mnt", h.file))
}

// image exports an image and returns its digest.
func (h *nfsHost) image(path string) string {
	h.t.Helper()
	e, err := h.exporter.Export(h.t.Context(), client.ExportRequest{Image: path})
	if err != nil {
		h.t.Fatal(err)
	}
	h.reload(true)
	return e.Digest
}

// reload has mountd read what the exporter wrote, by the jail's own paths, or
// export nothing.
func (h *nfsHost) reload(served bool) {
	h.t.Helper()
	b, err := os.ReadFile(h.file)
	if err != nil && served {
		h.t.Fatal(err)
	}
	text := strings.ReplaceAll(string(b), h.dir+"/", "/")
	if !served {
		text = "V4: /\n"
	}
	if err := os.WriteFile(h.dir+"/var/run/exports", []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	if pid := h.pid("mountd.pid"); pid > 0 {
		if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
			h.t.Fatal(err)
		}
		time.Sleep(time.Second) // it tells nobody when it is done
	}
}

// pid is what a server's own file says; 0 without one.
func (h *nfsHost) pid(file string) int {
	b, err := os.ReadFile(filepath.Join(h.dir, "var/run", file))
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
}

func (h *nfsHost) serve() {
	h.t.Helper()
	if err := os.WriteFile(h.dir+"/var/run/exports", []byte("V4: /\n"), 0o644); err != nil {
		h.t.Fatal(err)
	}
	h.in("sysctl", "vfs.nfsd.server_max_nfsvers=4")
	h.in("rpcbind")
	h.in("mountd", "-r", "/var/run/exports")
	h.nfsd()
}

func (h *nfsHost) nfsd() {
	h.t.Helper()
	h.in("nfsd", "-t", "-n", "4")
}

func (h *nfsHost) stopNfsd() {
	h.t.Helper()
	pid := h.pid("nfsd.pid")
	if pid == 0 {
		h.t.Fatal("no nfsd runs")
	}
	if err := syscall.Kill(pid, syscall.SIGUSR1); err != nil {
		h.t.Fatal(err)
	}
	for syscall.Kill(pid, 0) == nil {
		time.Sleep(50 * time.Millisecond)
	}
}

// unplug has all packets vanish between the hosts; plug lets them through.
func (h *nfsHost) unplug() { h.in("ifconfig", h.theirs, "down") }
func (h *nfsHost) plug()   { h.in("ifconfig", h.theirs, "up") }

func (h *nfsHost) stop() {
	command(h.t, "jail", "-r", h.name)
	for range 200 { // the interface comes back when the jail is wholly gone
		if exec.Command("ifconfig", h.theirs).Run() == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	h.t.Errorf("%s does not come back", h.theirs)
}

// url is what clients name the roots by.
func (h *nfsHost) url() string { return "nfs://" + h.addr + "/mnt" }

// client runs a daemon that trusts the server.
func (h *nfsHost) client(dir, more string) (*client.Client, func(os.Signal)) {
	h.t.Helper()
	return daemonAt(h.t, dir, fmt.Sprintf("permit {\n  nfs = true\n}\nnfs {\n  servers = [%q]\n  timeout = \"5s\"\n  every = \"500ms\"\n  keep = \"0s\"\n%s}\n", h.url(), more))
}

// noSetuid wants a mount whose set-uid programs have no effect.
func noSetuid(t *testing.T, target string) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil || st.Flags&unix.MNT_NOSUID == 0 || st.Flags&unix.MNT_RDONLY == 0 {
		t.Errorf("%s: flags %#x, %v: want nosuid and read-only", target, st.Flags, err)
	}
}
