package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/network"
)

// apart runs a part in a network namespace of its own, as nothing of it is for the host's.
func apart(ctx context.Context, part string) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", part)
	cmd.Env = append(os.Environ(), apartVariable+"=yes")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	return cmd.Run()
}

// prepareNetworks makes what the networks need, in this namespace.
func prepareNetworks() (undo func() error, err error) {
	for _, c := range []string{"ip link set lo up", "ip link add " + benchBridge + " type bridge",
		"ip addr add 10.185.0.1/24 dev " + benchBridge, "ip link set " + benchBridge + " up",
		"sysctl -q -w net.ipv4.ip_forward=1"} {
		args := strings.Fields(c)
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", c, err, out)
		}
	}
	return func() error { return nil }, nil
}

// stacksAlone are the system calls for a stack without a daemon, and tools for the same.
func (b *bench) stacksAlone(ctx context.Context) ([]contestant, error) {
	runc := os.Getenv("RUNC_BIN")
	if runc == "" {
		return nil, errors.New("RUNC_BIN is not set; `make bench` sets it")
	}
	tree, err := b.tree(ctx)
	if err != nil {
		return nil, err
	}
	m, err := b.operators()
	if err != nil {
		return nil, err
	}
	n := 0
	name := func() string { n++; return fmt.Sprintf("bench-%d-%d", os.Getpid(), n) }
	return []contestant{{name: "the system calls for a stack, the same mount, runc --detach",
		run: func() (time.Duration, error) {
			one := name()
			return withStack(ctx, m, one, func(e network.Endpoint) (time.Duration, error) {
				return b.runcIn(ctx, runc, tree, one, m.JailStack(e))
			})
		}}, {name: "ip(8) for a stack, the same mount, runc --detach",
		run: func() (time.Duration, error) { return b.byIP(ctx, runc, tree, name()) }}}, nil
}

// runcIn is runc with a namespace that there is.
func (b *bench) runcIn(ctx context.Context, runc, tree, name, stack string) (took time.Duration, err error) {
	bundle, state := b.path(name), b.path("runc")
	root := filepath.Join(bundle, "rootfs")
	for _, d := range []string{root, filepath.Join(bundle, "upper"), filepath.Join(bundle, "work")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return 0, err
		}
	}
	if err := errors.Join(runcSpec(ctx, runc, bundle, sleepArgs), shareNamespace(bundle, stack)); err != nil {
		return 0, err
	}
	begin := time.Now()
	err = mount.Do(mount.Mount{Type: "overlay", Source: "overlay", Target: root, Options: []string{"lowerdir=" + tree,
		"upperdir=" + bundle + "/upper", "workdir=" + bundle + "/work"}})
	if err == nil {
		cmd := exec.CommandContext(ctx, runc, "--root", state, "run", "--bundle", bundle, "--detach", name)
		cmd.Stderr = os.Stderr
		err = cmd.Run()
	}
	took = time.Since(begin)
	if err == nil {
		err = exec.CommandContext(ctx, runc, "--root", state, "delete", "--force", name).Run()
	}
	return took, errors.Join(err, mount.UnmountUnder(bundle), os.RemoveAll(bundle))
}

// shareNamespace has a bundle's process be in a network namespace.
func shareNamespace(bundle, path string) error {
	file := filepath.Join(bundle, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return err
	}
	linux, _ := spec["linux"].(map[string]any)
	list, ok := linux["namespaces"].([]any)
	if !ok {
		return fmt.Errorf("%s has no namespaces", file)
	}
	for _, n := range list {
		if n, is := n.(map[string]any); is && n["type"] == "network" {
			n["path"] = path
		}
	}
	if text, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}

// byIP makes a namespace and its link by programs of the system.
func (b *bench) byIP(ctx context.Context, runc, tree, name string) (took time.Duration, err error) {
	begin := time.Now()
	for _, c := range []string{"ip netns add " + name, "ip link add fjbench1 type veth peer name eth0 netns " + name,
		"ip link set fjbench1 master " + benchBridge + " up", "ip -n " + name + " addr add 10.185.0.2/24 dev eth0",
		"ip -n " + name + " link set lo up", "ip -n " + name + " link set eth0 up",
		"ip -n " + name + " route add default via 10.185.0.1"} {
		args := strings.Fields(c)
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%s: %w: %s", c, err, out)
		}
	}
	made := time.Since(begin)
	took, err = b.runcIn(ctx, runc, tree, name, "/run/netns/"+name)
	for _, args := range [][]string{{"ip", "link", "del", "fjbench1"}, {"ip", "netns", "del", name}} {
		err = errors.Join(err, exec.CommandContext(ctx, args[0], args[1:]...).Run())
	}
	return made + took, err
}

// pourByHand is measured where freejail's rules are pf's.
func (b *bench) pourByHand(context.Context) (*contestant, func() error, error) {
	return nil, func() error { return nil }, nil
}

// freeMemory are bytes that programs of the host can still have.
func freeMemory() (uint64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(text), "\n") {
		var kib uint64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}
