package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testimage"
)

// What the measured tasks run.
var (
	exitArgs  = []string{testimage.Program, "program", "exit"}
	sleepArgs = []string{testimage.Program, "program", "sleep"}
)

func programs() (map[string]string, error) { return nil, nil }

// alternatives here: runc and crun by themselves, with the same overlay under them.
func (b *bench) alternatives(ctx context.Context) (alternatives, error) {
	runc := os.Getenv("RUNC_BIN")
	if runc == "" {
		return alternatives{}, errors.New("RUNC_BIN is not set; `make bench` sets it")
	}
	tree, err := b.tree(ctx)
	if err != nil {
		return alternatives{}, err
	}
	n := 0
	one := func(runtime string, args []string, detach bool) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			n++
			name := fmt.Sprintf("bench-%d-%d", os.Getpid(), n)
			if err := runcSpec(ctx, runc, b.path(name), args); err != nil {
				return 0, err
			}
			return b.container(ctx, runtime, tree, name, detach)
		}
	}
	a := alternatives{
		toRunning: []contestant{{name: "overlay mount and runc run --detach", run: one(runc, sleepArgs, true)}},
		toEnd:     []contestant{{name: "overlay mount and runc run", run: one(runc, exitArgs, false)}}}
	crun, err := exec.LookPath("crun")
	if err != nil {
		fmt.Printf("\ncrun is left out: it is not here\n")
		return a, nil
	}
	if b.other, err = b.another(ctx, "by-crun", fmt.Sprintf("runc = %q\n", crun)); err != nil {
		return a, err
	}
	toRunning, toEnd := b.other.tasks(ctx, "freejail by crun")
	a.ourRunning, a.ourEnd = []contestant{toRunning}, []contestant{toEnd}
	a.toRunning = append(a.toRunning, contestant{name: "overlay mount and crun run --detach",
		run: one(crun, sleepArgs, true)})
	a.toEnd = append(a.toEnd, contestant{name: "overlay mount and crun run", least: 1,
		run: one(crun, exitArgs, false)})
	return a, nil
}

// container runs the bundle name by runc or crun, and leaves nothing of it.
func (b *bench) container(ctx context.Context, runtime, tree, name string,
	detach bool) (took time.Duration, err error) {
	bundle, state := b.path(name), b.path(filepath.Base(runtime))
	root := filepath.Join(bundle, "rootfs")
	for _, d := range []string{root, filepath.Join(bundle, "upper"), filepath.Join(bundle, "work")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return 0, err
		}
	}
	run := []string{"--root", state, "run", "--bundle", bundle}
	if detach {
		run = append(run, "--detach")
	}
	cmd := exec.CommandContext(ctx, runtime, append(run, name)...)
	cmd.Stderr = os.Stderr
	begin := time.Now()
	err = mount.Do(mount.Mount{Type: "overlay", Source: "overlay", Target: root, Options: []string{"lowerdir=" + tree,
		"upperdir=" + bundle + "/upper", "workdir=" + bundle + "/work"}})
	if err == nil {
		err = cmd.Run()
	}
	took = time.Since(begin)
	if detach && err == nil {
		err = exec.CommandContext(ctx, runtime, "--root", state, "delete", "--force", name).Run()
	}
	err = errors.Join(err, mount.UnmountUnder(bundle), os.RemoveAll(bundle))
	if !detach {
		took = time.Since(begin)
	}
	return took, err
}

// runcSpec is runc's own default but for what has no place in a benchmark: a
// terminal, and seccomp, which needs a library.
func runcSpec(ctx context.Context, runc, bundle string, args []string) error {
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, runc, "spec", "--bundle", bundle).CombinedOutput(); err != nil {
		return fmt.Errorf("runc spec: %w: %s", err, out)
	}
	file := filepath.Join(bundle, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return err
	}
	process, ok := spec["process"].(map[string]any)
	linux, ok2 := spec["linux"].(map[string]any)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no process or no linux", file)
	}
	process["terminal"], process["args"] = false, args
	spec["ociVersion"] = "1.0.2" // crun refuses those it does not know
	delete(linux, "seccomp")
	if text, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}

// rss is the resident memory of a process in bytes.
func rss(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	var size, resident uint64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		return 0, err
	}
	return resident * uint64(os.Getpagesize()), nil
}

// another starts one more daemon, in a directory of its own.
func (b *bench) another(ctx context.Context, name, config string) (*bench, error) {
	o := &bench{dir: b.path(name), config: config, archive: b.archive}
	err := os.Mkdir(o.dir, 0o700)
	if err == nil {
		err = o.startWithImage(ctx)
	}
	return o, err
}
