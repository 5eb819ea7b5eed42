package testnfs

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

// Server is the second host. Its Roots lie in a tmpfs of this host's, which
// whoever exports fills.
type Server struct {
	Roots  string // on this host
	dir    string
	jail   string
	cable  string // this host's end
	theirs string
}

// Start makes the second host with its root on dir, an empty directory. Close
// takes it away.
func Start(dir string) (*Server, error) {
	if v, err := unix.SysctlUint32("kern.features.vimage"); err != nil || v != 1 {
		return nil, fmt.Errorf("%w: the kernel has no VNET", ErrUnavailable)
	}
	for _, program := range []string{"/usr/sbin/mountd", "/usr/sbin/nfsd", "/usr/sbin/rpcbind"} {
		if _, err := os.Stat(program); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	s := &Server{dir: dir, Roots: dir + root, jail: "nfs" + strconv.Itoa(os.Getpid())}
	for _, step := range []func() error{s.tree, s.network, s.serve} {
		if err := step(); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// run runs a program of the base system.
func run(args ...string) (string, error) {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), err
}

func runAll(commands ...[]string) error {
	for _, c := range commands {
		if _, err := run(c...); err != nil {
			return err
		}
	}
	return nil
}

// tree is this host's own programs, and what a server writes to in memory. Its
// root is no nullfs: the server finds a file by its file system, which nullfs
// gives as that of the files below it.
func (s *Server) tree() error {
	memory := mount.Mount{Type: "tmpfs", Target: s.dir, Options: []string{"mode=755"}}
	if err := mount.Do(memory); err != nil {
		return err
	}
	for _, d := range []string{"tmp", "dev", "var/run", "var/db", root[1:]} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{"/bin", "/sbin", "/lib", "/libexec", "/usr", "/etc"} {
		if err := os.Mkdir(s.dir+d, 0o755); err != nil {
			return err
		}
		if err := mount.Do(mount.Mount{Type: "nullfs", Source: d, Target: s.dir + d,
			Options: []string{"ro"}}); err != nil {
			return err
		}
	}
	memory.Target = s.Roots
	if err := errors.Join(mount.Do(mount.Mount{Type: "devfs", Target: s.dir + "/dev"}), mount.Do(memory)); err != nil {
		return err
	}
	var errs []error
	for _, f := range []string{"nfs-stablerestart", "nfs-stablerestart.bak", "mountdtab"} {
		errs = append(errs, os.WriteFile(filepath.Join(s.dir, "var/db", f), nil, 0o600))
	}
	return errors.Join(errs...)
}

func (s *Server) network() (err error) {
	if s.cable, err = run("ifconfig", "epair", "create"); err != nil {
		return err
	}
	s.theirs = strings.TrimSuffix(s.cable, "a") + "b"
	return runAll(
		[]string{"ifconfig", s.cable, "inet", ours, "up"},
		[]string{"jail", "-c", "name=" + s.jail, "path=" + s.dir, "host.hostname=server", "vnet",
			"vnet.interface=" + s.theirs,
			"allow.nfsd", "enforce_statfs=1", "persist"},
		s.in("ifconfig", "lo0", "inet", "127.0.0.1/8", "up"),
		s.in("ifconfig", s.theirs, "inet", address+"/24", "up"))
}

// in runs a program in the second host. timeout(1) is between: a process of ours
// in a jail would be reaped by the jails' manager, where a test has one.
func (s *Server) in(args ...string) []string {
	return append([]string{"timeout", "--foreground", "120", "jexec", s.jail}, args...)
}

const nothing = "V4: /\n"

func (s *Server) exportsFile() string { return s.dir + "/var/run/exports" }

func (s *Server) serve() error {
	if err := os.WriteFile(s.exportsFile(), []byte(nothing), 0o644); err != nil {
		return err
	}
	if err := runAll(s.in("sysctl", "vfs.nfsd.server_max_nfsvers=4"), s.in("rpcbind"),
		s.in("mountd", "-r", "/var/run/exports")); err != nil {
		return err
	}
	return s.StartNFSD()
}

// Export has mountd export what a file says by this host's paths.
func (s *Server) Export(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return s.tell(strings.ReplaceAll(string(b), s.dir+"/", "/"))
}

// Unexport has mountd export nothing.
func (s *Server) Unexport() error { return s.tell(nothing) }

func (s *Server) tell(exports string) error {
	if err := os.WriteFile(s.exportsFile(), []byte(exports), 0o644); err != nil {
		return err
	}
	if err := unix.Kill(s.pid("mountd.pid"), unix.SIGHUP); err != nil {
		return fmt.Errorf("mountd: %w", err)
	}
	time.Sleep(time.Second) // it tells nobody when it is done
	return nil
}

// pid is what a server's own file says; -1 without one, which no process is.
func (s *Server) pid(file string) int {
	b, err := os.ReadFile(filepath.Join(s.dir, "var/run", file))
	if err != nil {
		return -1 << 30
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || n <= 1 {
		return -1 << 30
	}
	return n
}

// StartNFSD starts the server after StopNFSD, and waits until it answers.
func (s *Server) StartNFSD() error {
	if err := runAll(s.in("nfsd", "-t", "-n", "4")); err != nil {
		return err
	}
	for range 600 {
		if c, err := net.Dial("tcp", address+":2049"); err == nil {
			return c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("nfsd does not answer")
}

// StopNFSD ends it: its port is closed.
func (s *Server) StopNFSD() error {
	if err := unix.Kill(s.pid("nfsd.pid"), unix.SIGUSR1); err != nil {
		return fmt.Errorf("nfsd: %w", err)
	}
	// The first process may end without its second one, which serves.
	for range 60 {
		if _, err := run("pgrep", "-j", s.jail, "nfsd"); err != nil {
			return nil // there is none
		}
		time.Sleep(500 * time.Millisecond)
		_, _ = run("pkill", "-KILL", "-j", s.jail, "nfsd") // none is no error
	}
	return errors.New("nfsd does not end")
}

// Unplug has all packets vanish between the hosts.
func (s *Server) Unplug() error { return runAll(s.in("ifconfig", s.theirs, "down")) }

// Plug lets them through again.
func (s *Server) Plug() error { return runAll(s.in("ifconfig", s.theirs, "up")) }

// Close takes the second host away.
func (s *Server) Close() error {
	var errs []error
	if _, err := run("jls", "-j", s.jail, "jid"); err == nil {
		// A connection whose other end is silent would keep the jail for minutes.
		errs = append(errs, runAll(s.in("tcpdrop", "-a"), []string{"jail", "-r", s.jail}))
	}
	if s.cable != "" { // both ends go, wherever theirs is: the stack of a jail can die late
		errs = append(errs, runAll([]string{"ifconfig", s.cable, "destroy"}))
	}
	return errors.Join(append(errs, mount.ForceUnder(s.dir))...)
}
