package build

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// zfsCommand runs zfs(8).
func zfsCommand(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "zfs", args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("zfs %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}

// pool is a dataset of the builder's own. Below it lies one for each chain of
// layers that a RUN worked on or made, with what the layers have in root/, the
// index of hard links beside it, and the snapshot @done; and one, a clone, for
// each RUN at work.
type pool struct {
	name, dir string // the dataset and its mount point
}

const (
	chainPrefix = "c-"
	workPrefix  = "w-"
	doneName    = "@done"
	usedKey     = "org.freejail:used" // seconds since 1970
)

func openPool(ctx context.Context, name string) (*pool, error) {
	out, err := zfsCommand(ctx, "get", "-H", "-p", "-o", "value", "type,mountpoint,mounted", name)
	if err != nil {
		return nil, fmt.Errorf("%w: make it by zfs create -o mountpoint=/var/freejail-build %s", err, name)
	}
	f := strings.Split(strings.TrimSpace(out), "\n")
	if len(f) != 3 || f[0] != "filesystem" || !filepath.IsAbs(f[1]) {
		return nil, fmt.Errorf("the dataset %s is no file system with a mount point: zfs set mountpoint=/var/freejail-build %s", name, name)
	}
	dir, err := filepath.EvalSymlinks(f[1])
	if os.IsNotExist(err) {
		dir, err = f[1], nil
	}
	return &pool{name, dir}, err
}

func (p *pool) dataset(child string) string { return p.name + "/" + child }

// path is where a child is mounted.
func (p *pool) path(child string) string { return filepath.Join(p.dir, child) }

func (p *pool) root(child string) string { return filepath.Join(p.path(child), "root") }

func (p *pool) links(child string) string { return filepath.Join(p.path(child), "links") }

// exists tells whether a chain is there, whole.
func (p *pool) exists(ctx context.Context, child string) bool {
	_, err := zfsCommand(ctx, "list", "-H", "-o", "name", p.dataset(child)+doneName)
	return err == nil
}

// own properties are what a child needs whatever its parent has.
var ownProperties = []string{"-o", "canmount=noauto", "-o", "atime=off", "-o", "setuid=on", "-o", "exec=on", "-o", "readonly=off", "-o", "snapdir=hidden"}

// create makes a child, empty or with what a chain has, and mounts it.
func (p *pool) create(ctx context.Context, from string) (child string, err error) {
	child = workPrefix + strings.ToLower(rand.Text())
	args := append([]string{"create"}, ownProperties...)
	if from != "" {
		args = append(append([]string{"clone"}, ownProperties...), p.dataset(from)+doneName)
	}
	if _, err = zfsCommand(ctx, append(args, "-o", "mountpoint="+p.path(child), p.dataset(child))...); err != nil {
		return "", err
	}
	if err = p.mount(ctx, child); err != nil {
		return "", errors.Join(err, p.destroy(ctx, child))
	}
	return child, nil
}

func (p *pool) mount(ctx context.Context, child string) error {
	out, err := zfsCommand(ctx, "get", "-H", "-o", "value", "mounted", p.dataset(child))
	if err == nil && strings.TrimSpace(out) != "yes" {
		_, err = zfsCommand(ctx, "mount", p.dataset(child))
	}
	return err
}

// finish makes a child the one of a chain. Where another build was faster, this
// one is not needed.
func (p *pool) finish(ctx context.Context, child, chain string) error {
	if p.exists(ctx, chain) {
		return p.destroy(ctx, child)
	}
	for _, args := range [][]string{
		{"snapshot", p.dataset(child) + doneName},
		{"set", usedKey + "=" + now(), p.dataset(child)},
		{"unmount", p.dataset(child)},
		{"set", "mountpoint=" + p.path(chain), p.dataset(child)},
	} {
		if _, err := zfsCommand(ctx, args...); err != nil {
			return errors.Join(err, p.destroy(ctx, child))
		}
	}
	if _, err := zfsCommand(ctx, "rename", p.dataset(child), p.dataset(chain)); err != nil {
		if p.exists(ctx, chain) {
			err = nil
		}
		return errors.Join(err, p.destroy(ctx, child))
	}
	return errors.Join(p.mount(ctx, chain), removeEmpty(p.path(child)))
}

// removeEmpty removes a mount point that is not needed any more.
func removeEmpty(dir string) error {
	if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

func now() string { return strconv.FormatInt(time.Now().Unix(), 10) }

// destroy removes a child with its snapshots, also when the build is cancelled.
func (p *pool) destroy(ctx context.Context, child string) error {
	_, err := zfsCommand(context.WithoutCancel(ctx), "destroy", "-r", "-f", p.dataset(child))
	if err != nil {
		return err
	}
	return removeEmpty(p.path(child))
}

// diff runs zfs diff between two snapshots of a child.
func (p *pool) diff(ctx context.Context, child, from, to string) ([]zfsLine, error) {
	out, err := zfsCommand(ctx, "diff", "-F", "-H", p.dataset(child)+from, p.dataset(child)+to)
	if err != nil {
		return nil, err
	}
	var lines []zfsLine
	for line := range strings.Lines(out) {
		l, inside, err := parseZFSLine(strings.TrimSuffix(line, "\n"), p.root(child))
		if err != nil {
			return nil, err
		}
		if inside {
			lines = append(lines, l)
		}
	}
	return lines, nil
}

// prune removes what was not used for an age, and of the rest the least recently
// used until so many bytes are left, and what builds that were killed have left.
// A chain that others are clones of stays.
func (p *pool) prune(ctx context.Context, age time.Duration, bytes int64) (freed int64, err error) {
	for {
		n, gone, err := p.pruneOnce(ctx, age, bytes)
		if freed += n; err != nil || gone == 0 {
			return freed, err
		}
	}
}

// pruneOnce tells also how many are gone: what they were clones of can go next.
func (p *pool) pruneOnce(ctx context.Context, age time.Duration, bytes int64) (freed int64, gone int, err error) {
	out, err := zfsCommand(ctx, "list", "-H", "-p", "-r", "-d", "1", "-o", "name,used,"+usedKey, "-t", "filesystem", "-S", usedKey, p.name)
	if err != nil {
		return 0, 0, err
	}
	oldest := time.Now().Add(-age).Unix()
	var total int64
	for line := range strings.Lines(out) { // the last used first
		f := strings.Split(strings.TrimSpace(line), "\t")
		child, ok := strings.CutPrefix(f[0], p.name+"/")
		if !ok || len(f) != 3 || !strings.HasPrefix(child, chainPrefix) && !strings.HasPrefix(child, workPrefix) {
			continue
		}
		used, _ := strconv.ParseInt(f[1], 10, 64)
		last, _ := strconv.ParseInt(f[2], 10, 64)
		if total += used; last >= oldest && total <= bytes && strings.HasPrefix(child, chainPrefix) {
			continue
		}
		if err := p.destroy(ctx, child); err != nil {
			continue // it has clones
		}
		total, freed, gone = total-used, freed+used, gone+1
	}
	return freed, gone, nil
}
