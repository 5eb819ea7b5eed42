package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/jail"
)

// apart is this program itself: its networks are of this host.
func apart(ctx context.Context, part string) error {
	cmd := exec.CommandContext(ctx, os.Args[0], part)
	cmd.Env = append(os.Environ(), apartVariable+"=yes")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	return cmd.Run()
}

func system(args ...string) (string, error) {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", args, err, out)
	}
	return strings.TrimSpace(string(out)), err
}

// prepareNetworks makes the bridge, has the host forward, and pf run. It does nothing where pf runs by an operator's
// rules without freejail's anchors.
func prepareNetworks() (_ func() error, err error) {
	var undone []func() error
	undo := func() (err error) {
		for i := range undone {
			err = errors.Join(err, undone[len(undone)-1-i]())
		}
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, undo())
		}
	}()
	later := func(args ...string) {
		undone = append(undone, func() error { _, err := system(args...); return err })
	}
	if running, err := system("pfctl", "-s", "Running"); err == nil && strings.Contains(running, "Enabled") {
		if rules, err := system("pfctl", "-s", "rules"); err != nil || !strings.Contains(rules, `anchor "freejail"`) {
			fmt.Printf("\nnetworks: not measured: pf has no anchors of freejail's: docs/networks.md\n")
			return nil, err
		}
	} else if err := beginPF(later); err != nil {
		return nil, err
	}
	forwards, err := system("sysctl", "-n", "net.inet.ip.forwarding")
	if err != nil {
		return nil, err
	}
	later("sysctl", "net.inet.ip.forwarding="+forwards)
	bridge, err := system("ifconfig", "bridge", "create")
	if err != nil {
		return nil, err
	}
	later("ifconfig", benchBridge, "destroy")
	for _, args := range [][]string{{"sysctl", "net.inet.ip.forwarding=1"}, {"ifconfig", bridge, "name", benchBridge},
		{"ifconfig", benchBridge, "inet", "10.185.0.1/24", "up"}} {
		if _, err := system(args...); err != nil {
			return nil, err
		}
	}
	return undo, nil
}

// beginPF has pf run by rules that only lead to freejail's anchors.
func beginPF(later func(...string)) error {
	if exec.Command("kldstat", "-q", "-m", "pf").Run() != nil {
		if _, err := system("kldload", "pf"); err != nil {
			return err
		}
		later("kldunload", "pf")
	}
	conf := filepath.Join(os.TempDir(), fmt.Sprintf("bench-pf-%d.conf", os.Getpid()))
	if err := os.WriteFile(conf, []byte("nat-anchor \"freejail\"\nrdr-anchor \"freejail\"\nanchor \"freejail\"\n"),
		0o600); err != nil {
		return err
	}
	later("rm", conf)
	if _, err := system("pfctl", "-q", "-f", conf); err != nil {
		return err
	}
	later("pfctl", "-q", "-F", "all")
	if _, err := system("pfctl", "-q", "-e"); err != nil {
		return err
	}
	later("pfctl", "-q", "-d")
	return nil
}

// stacksAlone are the system calls for a stack without a daemon, and tools for the same.
func (b *bench) stacksAlone(ctx context.Context) ([]contestant, error) {
	tree, err := b.tree(ctx)
	if err != nil {
		return nil, err
	}
	jails, err := jail.Open(jail.Config{StateDir: b.path("jails")})
	if err != nil {
		return nil, err
	}
	m, err := b.operators()
	if err != nil {
		return nil, err
	}
	n := 0
	name := func() string { n++; return fmt.Sprintf("fj-benchn%d-%d", os.Getpid(), n) }
	return []contestant{{"the system calls alone: stack, mounts, jail, fork, exec",
		func() (time.Duration, error) {
			one := name()
			return withStack(ctx, m, one, func(stack string) (time.Duration, error) {
				return b.bareIn(ctx, jails, tree, one, stack)
			})
		}}, {"jail -c with vnet, the same mounts, ifconfig in exec",
		func() (time.Duration, error) { return b.byIfconfig(ctx, tree, name()) }}}, nil
}

// bareIn starts a process in a jail of a stack that there is.
func (b *bench) bareIn(ctx context.Context, m *jail.Manager, tree, name, stack string) (took time.Duration, err error) {
	root, upper, err := b.dirs(name)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	defer func() {
		err = errors.Join(err, m.Remove(context.Background(), name), mount.UnmountUnder(b.path(name)),
			os.RemoveAll(b.path(name)))
	}()
	for _, mt := range []mount.Mount{{Type: "nullfs", Source: tree, Target: root, Options: []string{"ro"}},
		{Type: "unionfs", Source: upper, Target: root},
		{Type: "devfs", Source: "devfs", Target: root + "/dev", Options: []string{"ruleset=4"}},
		{Type: "fdescfs", Source: "fdescfs", Target: root + "/dev/fd"}} {
		if err := mount.Do(mt); err != nil {
			return 0, err
		}
	}
	jid, err := m.Create(ctx, jail.Spec{Name: name, Root: root, Hostname: name, Stack: stack})
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(sleepArgs[0], sleepArgs[1:]...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Jail: jid}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	took = time.Since(begin)
	err = cmd.Process.Kill()
	<-m.Wait(cmd.Process.Pid)
	return took, err
}

// byIfconfig tells the time until a line of the command of a jail with a stack of its own.
func (b *bench) byIfconfig(ctx context.Context, tree, name string) (took time.Duration, err error) {
	root, upper, err := b.dirs(name)
	if err != nil {
		return 0, err
	}
	fstab := filepath.Join(b.path(name), "fstab")
	if err := os.WriteFile(fstab, fmt.Appendf(nil, "%s %s nullfs ro 0 0\n%s %s unionfs rw 0 0\n", tree, root, upper,
		root), 0o600); err != nil {
		return 0, err
	}
	const link = "epair16000"
	cmd := exec.CommandContext(ctx, "/usr/sbin/jail", "-c", "-q", "name="+name, "path="+root, "host.hostname="+name,
		"vnet", "mount.fstab="+fstab, "mount.devfs", "devfs_ruleset=4", "mount.fdescfs",
		"exec.prestart=/sbin/ifconfig "+link+" create up && /sbin/ifconfig "+benchBridge+" addm "+link+"a && "+
			"/sbin/ifconfig "+link+"a up",
		"exec.created=/sbin/ifconfig "+link+"b vnet "+name+" && "+
			"/sbin/ifconfig -j "+name+" lo0 inet 127.0.0.1/8 up && "+
			"/sbin/ifconfig -j "+name+" "+link+"b inet 10.185.0.2/24 up && "+
			"/sbin/route -j "+name+" -q add default 10.185.0.1",
		"command=/bin/sh", "-c", "echo")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	_, err = out.Read(make([]byte, 1))
	took = time.Since(begin)
	err = errors.Join(err, cmd.Wait())
	_, gone := system("ifconfig", link+"a", "destroy")
	return took, errors.Join(err, gone, mount.UnmountUnder(b.path(name)), os.RemoveAll(b.path(name)))
}

// freeMemory are bytes that programs of the host can still have.
func freeMemory() (uint64, error) {
	var pages uint64
	for _, name := range []string{"vm.stats.vm.v_free_count", "vm.stats.vm.v_inactive_count"} {
		n, err := unix.SysctlUint32(name)
		if err != nil {
			return 0, err
		}
		pages += uint64(n)
	}
	return pages * uint64(os.Getpagesize()), nil
}
