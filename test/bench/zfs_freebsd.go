package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
)

// poolVariable names a ZFS pool; without it nothing is measured on ZFS.
const poolVariable = "FREEJAIL_TEST_ZPOOL"

// inARow are the tasks that come one after another, more than there are clones for.
const inARow = 20

// dataset is one that does not exist, for roots on ZFS; empty without a pool.
func dataset() string {
	pool := os.Getenv(poolVariable)
	if pool == "" {
		return ""
	}
	return fmt.Sprintf("%s/freejail-bench-%d", pool, os.Getpid())
}

// destroyDataset leaves nothing of one, if it was made.
func destroyDataset(set string) error {
	if exec.Command("/sbin/zfs", "list", set).Run() != nil {
		return nil
	}
	return zfs(context.Background(), "destroy", "-r", "-f", set)
}

func zfs(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "/sbin/zfs", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("zfs %q: %w: %s", args, err, out)
	}
	return nil
}

// zfsStarts compares starts on a clone with those on a union, and with jail(8) on a clone made by zfs(8).
func (b *bench) zfsStarts(ctx context.Context) error {
	if b.zfs == "" {
		fmt.Printf("\nStarts on ZFS are left out: %s names no pool\n", poolVariable)
		return nil
	}
	hand, err := b.handMade(ctx)
	if err != nil {
		return err
	}
	n := 0
	name := func() string { n++; return fmt.Sprintf("z%d-%d", os.Getpid(), n) }
	start := func(storage string) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			return b.startSpec(ctx, client.TaskSpec{ID: name(), Storage: storage, Entrypoint: sleepArgs})
		}
	}
	whole := func(storage string) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			return b.startAndWait(ctx, client.TaskSpec{ID: name(), Storage: storage})
		}
	}
	many := func(storage string) func() (time.Duration, error) { // with what is done behind starts and ends
		return func() (took time.Duration, err error) {
			for range inARow {
				d, err := whole(storage)()
				if err != nil {
					return 0, err
				}
				took += d
			}
			return took / inARow, nil
		}
	}
	byHand := func(wait bool) func() (time.Duration, error) {
		return func() (time.Duration, error) { return b.onAClone(ctx, hand, name(), wait) }
	}
	if _, err := start("zfs")(); err != nil { // unpacks
		return err
	}
	if err := contest(rounds, "Start of a task on ZFS until its process runs",
		contestant{name: "freejail, a union", run: start("union")},
		contestant{name: "freejail, a clone", run: start("zfs"), most: 1.3},
		contestant{name: "zfs clone and jail -c, until a line of its command", run: byHand(false)}); err != nil {
		return err
	}
	if err := contest(rounds, "A whole task on ZFS, until its root is unmounted",
		contestant{name: "freejail, a union", run: whole("union")},
		contestant{name: "freejail, a clone", run: whole("zfs")},
		contestant{name: "zfs clone, jail -c and zfs destroy", run: byHand(true)}); err != nil {
		return err
	}
	return contest(rounds/6, fmt.Sprintf("A whole task on ZFS, of %d in a row", inARow),
		contestant{name: "freejail, unions", run: many("union")},
		contestant{name: "freejail, clones", run: many("zfs")})
}

// handMade is the snapshot of the image's tree that an operator would make.
func (b *bench) handMade(ctx context.Context) (snapshot string, err error) {
	tree, err := b.tree(ctx)
	if err != nil {
		return "", err
	}
	set, dir := b.zfs+"/hand", b.path("hand")
	if err := zfs(ctx, "create", "-o", "mountpoint="+dir, set); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "cp", "-Rp", tree+"/.", dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("cp: %w: %s", err, out)
	}
	return set + "@tree", zfs(ctx, "snapshot", set+"@tree")
}

// onAClone is jail8 on a clone.
func (b *bench) onAClone(ctx context.Context, snapshot, name string, wait bool) (took time.Duration, err error) {
	root, set := b.path(name), filepath.Join(b.zfs, name)
	begin := time.Now()
	if err := zfs(ctx, "clone", "-o", "mountpoint="+root, snapshot, set); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, "/usr/sbin/jail", "-c", "-q", "name="+name, "path="+root, "host.hostname="+name,
		"ip4=inherit", "ip6=inherit", "mount.devfs", "devfs_ruleset=4", "mount.fdescfs",
		"command=/bin/sh", "-c", "echo")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	_, err = out.Read(make([]byte, 1))
	took = time.Since(begin)
	err = errors.Join(err, cmd.Wait(), mount.UnmountUnder(root+"/dev"), zfs(ctx, "destroy", set))
	if wait {
		took = time.Since(begin)
	}
	return took, err
}
