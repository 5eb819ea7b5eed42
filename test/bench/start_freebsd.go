package main

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
	"github.com/freejail/freejail/internal/mount"
)

// What the measured tasks run: programs of the base system.
var (
	exitArgs  = []string{"/bin/sh", "-c", "exit"}
	sleepArgs = []string{"/bin/sleep", "3600"}
)

// programs are those, with their loader and libraries.
func programs() (map[string]string, error) {
	all := map[string]string{"/libexec/ld-elf.so.1": "/libexec/ld-elf.so.1"}
	for todo := []string{exitArgs[0], sleepArgs[0]}; len(todo) > 0; todo = todo[1:] {
		if all[todo[0]] != "" {
			continue
		}
		all[todo[0]] = todo[0]
		f, err := elf.Open(todo[0])
		if err != nil {
			return nil, err
		}
		libs, err := f.ImportedLibraries()
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", todo[0], err)
		}
		for _, lib := range libs {
			todo = append(todo, "/lib/"+lib)
		}
	}
	return all, nil
}

// alternatives here: the bare system calls, and jail(8), each with the same
// mounts as freejail's union storage: nullfs, unionfs, devfs and fdescfs.
func (b *bench) alternatives(ctx context.Context) (alternatives, error) {
	tree, err := b.tree(ctx)
	if err != nil {
		return alternatives{}, err
	}
	n := 0
	name := func() string { n++; return fmt.Sprintf("fj-bench%d-%d", os.Getpid(), n) }
	bare := func(wait bool) func() (time.Duration, error) {
		return func() (time.Duration, error) { return b.bareCalls(tree, name(), wait) }
	}
	jail8 := func(wait bool) func() (time.Duration, error) {
		return func() (time.Duration, error) { return b.jail8(ctx, tree, name(), wait) }
	}
	return alternatives{
		toRunning: []contestant{{name: "the system calls alone: mounts, jail_set, fork and exec", run: bare(false),
			least: 1 / 1.3},
			{name: "jail -c with the same mounts, until a line of its command", run: jail8(false), least: 8}},
		toEnd: []contestant{{name: "the system calls alone", run: bare(true)},
			{name: "jail -c with the same mounts", run: jail8(true), least: 6}}}, nil
}

// dirs of one contestant's root.
func (b *bench) dirs(name string) (root, upper string, err error) {
	root, upper = filepath.Join(b.path(name), "root"), filepath.Join(b.path(name), "upper")
	return root, upper, errors.Join(os.MkdirAll(root, 0o755), os.MkdirAll(upper, 0o755))
}

// Of sys/jail.h.
const (
	jailCreate  = 1
	jailInherit = 2
)

func (b *bench) bareCalls(tree, name string, wait bool) (took time.Duration, err error) {
	root, upper, err := b.dirs(name)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	defer func() {
		err = errors.Join(err, mount.UnmountUnder(b.path(name)), os.RemoveAll(b.path(name)))
		if wait {
			took = time.Since(begin)
		}
	}()
	for _, mt := range []mount.Mount{{Type: "nullfs", Source: tree, Target: root, Options: []string{"ro"}},
		{Type: "unionfs", Source: upper, Target: root},
		{Type: "devfs", Source: "devfs", Target: root + "/dev", Options: []string{"ruleset=4"}},
		{Type: "fdescfs", Source: "fdescfs", Target: root + "/dev/fd"}} {
		if err := mount.Do(mt); err != nil {
			return 0, err
		}
	}
	jid, message, err := bsd.Call(unix.SYS_JAIL_SET, []bsd.Param{bsd.Text("name", name), bsd.Text("path", root),
		bsd.Text("host.hostname", name), {Name: "persist"}, {Name: "ip4", Value: bsd.Word(jailInherit)},
		{Name: "ip6", Value: bsd.Word(jailInherit)}}, jailCreate)
	if err != nil {
		return 0, fmt.Errorf("jail_set: %s: %w", message, err)
	}
	defer func() { // first, and with it what runs there
		if _, _, errno := unix.Syscall(unix.SYS_JAIL_REMOVE, uintptr(jid), 0, 0); errno != 0 {
			err = errors.Join(err, fmt.Errorf("jail_remove: %w", errno))
		}
	}()
	args := sleepArgs
	if wait {
		args = exitArgs
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Jail: jid}
	if wait {
		return 0, cmd.Run()
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	took = time.Since(begin)
	err = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	return took, err
}

// jail8 runs a command that writes a line and ends. It tells the time until
// the line or, with wait, until nothing is left.
func (b *bench) jail8(ctx context.Context, tree, name string, wait bool) (took time.Duration, err error) {
	root, upper, err := b.dirs(name)
	if err != nil {
		return 0, err
	}
	fstab := filepath.Join(b.path(name), "fstab")
	if err := os.WriteFile(fstab, fmt.Appendf(nil, "%s %s nullfs ro 0 0\n%s %s unionfs rw 0 0\n", tree, root, upper,
		root), 0o600); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, "/usr/sbin/jail", "-c", "-q", "name="+name, "path="+root, "host.hostname="+name,
		"ip4=inherit", "ip6=inherit",
		"mount.fstab="+fstab, "mount.devfs", "devfs_ruleset=4", "mount.fdescfs", "command=/bin/sh", "-c", "echo")
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
	err = errors.Join(err, cmd.Wait(), mount.UnmountUnder(b.path(name)), os.RemoveAll(b.path(name)))
	if wait {
		took = time.Since(begin)
	}
	return took, err
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
