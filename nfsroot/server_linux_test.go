package nfsroot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inPrivateNetwork runs the test again in a network and a /run of its own, so
// that a portmapper and an NFS server can have their usual ports.
func inPrivateNetwork(t *testing.T) bool {
	const mark = "FREEJAIL_TEST_PRIVATE_NETWORK"
	if os.Getenv(mark) != "" {
		loopbackUp(t)
		check(t, unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
		check(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("a network of its own needs root")
	}
	c := exec.Command(os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	c.Env = append(os.Environ(), mark+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig: syscall.SIGKILL}
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	return false
}

func loopbackUp(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	check(t, err)
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	check(t, err)
	req.SetUint16(unix.IFF_UP)
	check(t, unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req))
}

// startServer runs a userland NFS server for the directory, with these versions.
func startServer(t *testing.T, dir, protocols, minors string) *exec.Cmd {
	t.Helper()
	ganesha, err := exec.LookPath("ganesha.nfsd")
	if err != nil {
		t.Skip("there is no ganesha.nfsd: apt-get install nfs-ganesha nfs-ganesha-vfs rpcbind")
	}
	private := t.TempDir()
	conf := filepath.Join(private, "ganesha.conf")
	check(t, os.WriteFile(conf, fmt.Appendf(nil, `
NFS_CORE_PARAM { Protocols = %s; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; NFS_Port = 2049; MNT_Port = 20048; }
NFSV4 { Graceless = true; RecoveryRoot = %q; Minor_Versions = %s; }
EXPORT { Export_Id = 7; Path = %q; Pseudo = %q; Access_Type = RO; Squash = no_root_squash; SecType = sys; FSAL { Name = VFS; } }
`, protocols, private, minors, dir, dir), 0o600))
	bind := exec.Command("rpcbind", "-w", "-f")
	run(t, bind)
	waitPort(t, portmapPort)
	log := filepath.Join(private, "log")
	c := exec.Command(ganesha, "-F", "-f", conf, "-L", log, "-p", filepath.Join(private, "pid"), "-N", "EVENT")
	check(t, os.MkdirAll("/run/ganesha", 0o755))
	run(t, c)
	t.Cleanup(func() {
		if b, err := os.ReadFile(log); t.Failed() && err == nil {
			t.Logf("%s", b[max(0, len(b)-8000):])
		}
	})
	waitPort(t, Port)
	return c
}

func run(t *testing.T, c *exec.Cmd) {
	t.Helper()
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	check(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
}

func waitPort(t *testing.T, port int) {
	t.Helper()
	for range 300 {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			c.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("nothing listens on port %d", port)
}

// The protocol's side of a client, against a server that others wrote.
func TestProtocol(t *testing.T) {
	if !inPrivateNetwork(t) {
		return
	}
	dir := filepath.Join(t.TempDir(), "roots")
	img := writeExport(t, dir, "web", "the config")
	big := writeExport(t, dir, "big", string(make([]byte, 3*readChunk+17)))
	server := startServer(t, dir, "3, 4", "0, 1, 2")
	for _, version := range []int{4, 3} {
		t.Run(fmt.Sprintf("version %d", version), func(t *testing.T) {
			testFind(t, Server{Host: "127.0.0.1", Port: Port, Path: dir}, dir, img, big, version)
		})
	}
	check(t, server.Process.Signal(syscall.SIGSTOP))
	o := Options{Version: 4, MinorVersion: -1, Timeout: time.Second}
	_, err := Find(context.Background(), []Server{{Host: "127.0.0.1", Port: Port, Path: dir}}, "web", "", o)
	wantError(t, "a server that does not answer", err, ErrAway)
	check(t, server.Process.Signal(syscall.SIGCONT))
}

// A server of NFSv4.1 and nothing else, which Amazon's is but for 4.0.
func TestProtocolWithSessions(t *testing.T) {
	if !inPrivateNetwork(t) {
		return
	}
	dir := filepath.Join(t.TempDir(), "roots")
	img := writeExport(t, dir, "web", "the config")
	big := writeExport(t, dir, "big", string(make([]byte, 3*readChunk+17)))
	startServer(t, dir, "4", "1")
	s := Server{Host: "127.0.0.1", Port: Port, Path: dir}
	testFind(t, s, dir, img, big, 4)
	o := Options{Version: 4, MinorVersion: 0, Timeout: 10 * time.Second}
	if _, err := Find(context.Background(), []Server{s}, "web", "", o); !errors.Is(err, errMinor) {
		t.Errorf("with minor_version 0: %v", err)
	}
	o.Version = 3
	if _, err := Find(context.Background(), []Server{s}, "web", "", o); err == nil {
		t.Error("with version 3 it is found")
	}
}

// The index that a server gives is compared with what is in the directory. That this is a mount of the server takes a
// kernel with an NFS client.
func TestServedByAnother(t *testing.T) {
	if !inPrivateNetwork(t) {
		return
	}
	dir := filepath.Join(t.TempDir(), "roots")
	writeExport(t, dir, "web", "the config")
	startServer(t, dir, "4", "1")
	mounted := filepath.Join(t.TempDir(), "mnt")
	check(t, os.Mkdir(mounted, 0o755))
	err := unix.Mount("127.0.0.1:"+dir, mounted, "nfs", 0, "vers=4.1,addr=127.0.0.1,clientaddr=127.0.0.1,proto=tcp")
	if errors.Is(err, unix.ENODEV) {
		t.Skip("the kernel has no NFS client")
	}
	check(t, err)
	defer func() { check(t, unix.Unmount(mounted, unix.MNT_DETACH)) }()
	e := NewExporter(ExportConfig{Dir: mounted, RemoveTree: os.RemoveAll, Served: Served{
		Server{"127.0.0.1", Port, dir}, Options{Version: 4, MinorVersion: -1, Timeout: 10 * time.Second}}})
	if problem, _ := e.Serving(); problem != "" {
		t.Error(problem)
	}
	e.cfg.Served.By.Path = filepath.Dir(dir)
	if problem, _ := e.Serving(); problem == "" {
		t.Error("another directory of the server is taken for it")
	}
	e.cfg.Served = Served{}
	if err := e.begin(); err == nil {
		t.Error("this host exports another's")
	}
}
