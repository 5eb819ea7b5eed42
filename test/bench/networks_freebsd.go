package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testimage"
	"github.com/freejail/freejail/jail"
	"github.com/freejail/freejail/network"
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

// benchConf are rules that only lead to freejail's anchors, and to those of rules by hand.
const benchConf = `nat-anchor "freejail"
nat-anchor "bench/*"
rdr-anchor "freejail"
rdr-anchor "bench/*"
anchor "freejail"
`

// beginPF has pf run by benchConf.
func beginPF(later func(...string)) error {
	if exec.Command("kldstat", "-q", "-m", "pf").Run() != nil {
		if _, err := system("kldload", "pf"); err != nil {
			return err
		}
		later("kldunload", "pf")
	}
	conf := filepath.Join(os.TempDir(), fmt.Sprintf("bench-pf-%d.conf", os.Getpid()))
	if err := os.WriteFile(conf, []byte(benchConf), 0o600); err != nil {
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
	h, err := b.byHand(ctx)
	if err != nil {
		return nil, err
	}
	n := 0
	name := func() string { n++; return fmt.Sprintf("fj-benchn%d-%d", os.Getpid(), n) }
	return []contestant{{name: "system calls: stack, mounts, jail, fork, exec; pfctl: a port",
		run: func() (time.Duration, error) { return h.bare(ctx, name()) }},
		{name: "jail -c with vnet, the same mounts, ifconfig and pfctl",
			run: func() (time.Duration, error) { return b.byIfconfig(ctx, h.tree, name()) }}}, nil
}

// byHand is what makes jails with stacks and ports without freejail's daemon.
type byHand struct {
	b     *bench
	tree  string
	jails *jail.Manager
	nets  *network.Manager
}

func (b *bench) byHand(ctx context.Context) (h byHand, err error) {
	h.b = b
	if h.tree, err = b.tree(ctx); err != nil {
		return h, err
	}
	if h.jails, err = jail.Open(jail.Config{StateDir: b.path("jails")}); err != nil {
		return h, err
	}
	h.nets, err = b.operators()
	return h, err
}

// loadByHand has pf use rules in an anchor of their own.
func loadByHand(name, rules string) error {
	cmd := exec.Command("/sbin/pfctl", "-q", "-a", "bench/"+name, "-f", "-")
	cmd.Stdin, cmd.Stderr = strings.NewReader(rules), os.Stderr
	return cmd.Run()
}

// ruleByHand leads a port of the bridge's address to one of an address.
const ruleByHand = "rdr on ! lo0 inet proto tcp from any to 10.185.0.1 port %d -> %s port %d\n"

func forgetByHand(name string) error {
	_, err := system("/sbin/pfctl", "-q", "-a", "bench/"+name, "-F", "nat")
	return err
}

// bare starts a process in a jail with a stack of its own and a port that is led to it.
func (h byHand) bare(ctx context.Context, name string) (time.Duration, error) {
	return withStack(ctx, h.nets, name, func(e network.Endpoint) (took time.Duration, err error) {
		begin := time.Now()
		jid, undo, err := h.jail(ctx, name, h.nets.JailStack(e))
		defer func() { err = errors.Join(err, undo()) }()
		if err != nil {
			return 0, err
		}
		if err := loadByHand(name, fmt.Sprintf(ruleByHand, 7200, e.Addr4, 7200)); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, forgetByHand(name)) }()
		cmd := exec.Command(sleepArgs[0], sleepArgs[1:]...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Jail: jid}
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		took = time.Since(begin)
		err = cmd.Process.Kill()
		<-h.jails.Wait(cmd.Process.Pid)
		return took, err
	})
}

// jail makes one in a stack that there is. What undoes it is right after an error too.
func (h byHand) jail(ctx context.Context, name, stack string) (jid int, undo func() error, err error) {
	undo = func() error {
		return errors.Join(h.jails.Remove(context.Background(), name), mount.UnmountUnder(h.b.path(name)),
			os.RemoveAll(h.b.path(name)))
	}
	root, upper, err := h.b.dirs(name)
	if err != nil {
		return 0, undo, err
	}
	for _, mt := range []mount.Mount{{Type: "nullfs", Source: h.tree, Target: root, Options: []string{"ro"}},
		{Type: "unionfs", Source: upper, Target: root},
		{Type: "devfs", Source: "devfs", Target: root + "/dev", Options: []string{"ruleset=4"}},
		{Type: "fdescfs", Source: "fdescfs", Target: root + "/dev/fd"}} {
		if err := mount.Do(mt); err != nil {
			return 0, undo, err
		}
	}
	jid, err = h.jails.Create(ctx, jail.Spec{Name: name, Root: root, Hostname: name, Stack: stack})
	return jid, undo, err
}

// pourByHand is the throughput of a port that pf leads from one jail to another, both with stacks of their own on
// one bridge, by the fewest rules.
func (b *bench) pourByHand(ctx context.Context) (c *contestant, end func() error, err error) {
	var undone []func() error
	end = func() (err error) {
		for i := range undone {
			err = errors.Join(err, undone[len(undone)-1-i]())
		}
		return err
	}
	h, err := b.byHand(ctx)
	if err != nil {
		return nil, end, err
	}
	var jids [2]int
	var at [2]netip.Addr
	for i := range jids {
		name := fmt.Sprintf("fj-benchp%d-%d", os.Getpid(), i)
		e, err := h.nets.Reserve(name, network.Request{Network: "alone"})
		if err != nil {
			return nil, end, err
		}
		gone := func() error { return h.nets.Detach(context.Background(), e) }
		if err := h.nets.Attach(ctx, e); err != nil {
			return nil, end, errors.Join(err, gone())
		}
		jid, undo, err := h.jail(ctx, name, h.nets.JailStack(e))
		undone = append(undone, undo, gone) // connections hold a root until their stack is gone
		if err != nil {
			return nil, end, err
		}
		jids[i], at[i] = jid, e.Addr4
	}
	inside := func(jid int, args ...string) *exec.Cmd {
		cmd := exec.Command(testimage.Program, append([]string{"program"}, args...)...)
		cmd.Dir, cmd.Stderr = "/", os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Jail: jid}
		return cmd
	}
	// The second rule has the answers come back by the host: both are in one network.
	undone = append(undone, func() error { return forgetByHand("pour") })
	if err := loadByHand("pour", fmt.Sprintf("nat on %s inet from 10.185.0.0/24 to %s -> 10.185.0.1\n"+ruleByHand,
		benchBridge, at[0], 7102, at[0], 7100)); err != nil {
		return nil, end, err
	}
	drain := inside(jids[0], "drain", "7100")
	if err := drain.Start(); err != nil {
		return nil, end, err
	}
	undone = append(undone, func() error {
		err := drain.Process.Kill()
		<-h.jails.Wait(drain.Process.Pid)
		return err
	})
	return &contestant{name: "to a port that pf's rules by hand lead to a jail", run: func() (time.Duration, error) {
		cmd := inside(jids[1], "pour", "10.185.0.1:7102")
		r, w, err := os.Pipe()
		if err != nil {
			return 0, err
		}
		defer r.Close()
		cmd.Stdout = w
		err = errors.Join(cmd.Start(), w.Close())
		if err != nil {
			return 0, err
		}
		out, err := io.ReadAll(r)
		if e := <-h.jails.Wait(cmd.Process.Pid); e.Code != 0 || err != nil {
			return 0, fmt.Errorf("it ended with %d: %w", e.Code, err)
		}
		return time.ParseDuration(strings.TrimSpace(string(out)))
	}}, end, nil
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
			"/sbin/route -j "+name+" -q add default 10.185.0.1 && "+
			"printf '"+strings.TrimSuffix(fmt.Sprintf(ruleByHand, 7200, "10.185.0.2", 7200), "\n")+"\\n' | "+
			"/sbin/pfctl -q -a bench/"+name+" -f -",
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
	return took, errors.Join(err, gone, forgetByHand(name), mount.UnmountUnder(b.path(name)),
		os.RemoveAll(b.path(name)))
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
