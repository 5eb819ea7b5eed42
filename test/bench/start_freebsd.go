package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/jail"
)

// alternatives here: the bare system calls, and jail(8), each with the same
// mounts as freejail's union storage: nullfs, unionfs and devfs.
func (b *bench) alternatives(ctx context.Context) (alternatives, error) {
	tree, err := b.tree(ctx)
	if err != nil {
		return alternatives{}, err
	}
	m, err := jail.Open(jail.Config{StateDir: b.path("jails")})
	if err != nil {
		return alternatives{}, err
	}
	n := 0
	name := func() string { n++; return fmt.Sprintf("fj-bench%d-%d", os.Getpid(), n) }
	bare := func(wait bool) func() (time.Duration, error) {
		return func() (time.Duration, error) { return b.bareCalls(ctx, m, tree, name(), wait) }
	}
	return alternatives{
		toRunning: []contestant{{"the system calls alone: mounts, jail_set, fork and exec", bare(false)}},
		toEnd: []contestant{{"the system calls alone", bare(true)},
			{"jail -c with the same mounts", func() (time.Duration, error) { return b.jail8(ctx, tree, name()) }}}}, nil
}

// dirs of one contestant's root.
func (b *bench) dirs(name string) (root, upper string, err error) {
	root, upper = filepath.Join(b.path(name), "root"), filepath.Join(b.path(name), "upper")
	return root, upper, errors.Join(os.MkdirAll(root, 0o755), os.MkdirAll(upper, 0o755))
}

func (b *bench) bareCalls(ctx context.Context, m *jail.Manager, tree, name string, wait bool) (took time.Duration, err error) {
	root, upper, err := b.dirs(name)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	defer func() {
		err = errors.Join(err, m.Remove(context.Background(), name), mount.UnmountUnder(b.path(name)), os.RemoveAll(b.path(name)))
		if wait {
			took = time.Since(begin)
		}
	}()
	for _, mt := range []mount.Mount{{Type: "nullfs", Source: tree, Target: root, Options: []string{"ro"}}, {Type: "unionfs", Source: upper, Target: root},
		{Type: "devfs", Source: "devfs", Target: root + "/dev", Options: []string{"ruleset=4"}}} {
		if err := mount.Do(mt); err != nil {
			return 0, err
		}
	}
	jid, err := m.Create(ctx, jail.Spec{Name: name, Root: root, Hostname: name, Params: map[string]string{"ip4": "inherit", "ip6": "inherit"}})
	if err != nil {
		return 0, err
	}
	mode := "sleep"
	if wait {
		mode = "exit"
	}
	cmd := exec.Command(programArgs[0], programArgs[1], mode)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Jail: jid}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if wait {
		// By the manager, which collects every child of this process. The time
		// is told when all is gone.
		if e := <-m.Wait(cmd.Process.Pid); e.Code != 0 {
			return 0, fmt.Errorf("it ended with %d", e.Code)
		}
		return 0, nil
	}
	took = time.Since(begin)
	err = cmd.Process.Kill()
	<-m.Wait(cmd.Process.Pid)
	return took, err
}

func (b *bench) jail8(ctx context.Context, tree, name string) (took time.Duration, err error) {
	root, upper, err := b.dirs(name)
	if err != nil {
		return 0, err
	}
	fstab := filepath.Join(b.path(name), "fstab")
	if err := os.WriteFile(fstab, fmt.Appendf(nil, "%s %s nullfs ro 0 0\n%s %s unionfs rw 0 0\n", tree, root, upper, root), 0o600); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, "/usr/sbin/jail", "-c", "-q", "name="+name, "path="+root, "host.hostname="+name, "ip4=inherit", "ip6=inherit",
		"mount.fstab="+fstab, "mount.devfs", "devfs_ruleset=4",
		"command="+programArgs[0], programArgs[1], "exit")
	cmd.Stderr = os.Stderr
	begin := time.Now()
	err = errors.Join(cmd.Run(), mount.UnmountUnder(b.path(name)), os.RemoveAll(b.path(name)))
	return time.Since(begin), err
}

// rss is the resident memory of a process in bytes.
func rss(pid int) (uint64, error) {
	out, err := exec.Command("ps", "-o", "rss=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return 0, err
	}
	kib, err := strconv.ParseUint(strings.TrimSpace(string(out)), 10, 64)
	return kib << 10, err
}
