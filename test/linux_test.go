package test

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
)

// linuxImage runs a program of Linux on FreeBSD, where the policy permits it.
func linuxImage(t *testing.T, c *cluster) {
	if runtime.GOOS != "freebsd" {
		t.Skip("Linux runs programs of Linux without further ado")
	}
	info, err := c.daemon.Info(t.Context())
	check(t, err)
	if info.Features["linux"] != "1" {
		t.Skip("this kernel runs no programs of Linux: service linux onestart")
	}
	dir := os.Getenv("FREEJAIL_IMAGES")
	if dir == "" {
		t.Skip("FREEJAIL_IMAGES is not set")
	}
	for _, name := range []string{"linux-permitted", "linux-refused"} {
		_, err := c.daemon.Import(t.Context(),
			client.ImportRequest{Name: name, Path: filepath.Join(dir, "linux", "web.tar")}, nil)
		check(t, err)
	}
	j, task := job("refused", "")
	task.Config = map[string]any{"image": "linux-refused"}
	c.run(t, j)
	wantMessage(t, c.one(t, j, "failed"), "linux", "policy approve")

	j, task = job("linux", "")
	task.Config = map[string]any{"image": "linux-permitted"}
	withPort(j, task)
	c.run(t, j)
	a := c.one(t, j, "running")
	ports := a.AllocatedResources.Shared.Ports
	if len(ports) != 1 {
		t.Fatalf("the allocation has the ports %v", ports)
	}
	addr := net.JoinHostPort(ports[0].HostIP, strconv.Itoa(ports[0].Value))
	await(t, "the page of a Linux program", func() error {
		_, err := httpGet("http://" + addr + "/")
		return err
	})
	tasks, err := c.daemon.Tasks(t.Context())
	check(t, err)
	if len(tasks) != 1 {
		t.Fatalf("%d tasks run", len(tasks))
	}
	below, err := mount.Below(tasks[0].Root)
	check(t, err)
	for _, want := range []mount.Info{{Type: "linprocfs", Target: "/proc"}, {Type: "linsysfs", Target: "/sys"},
		{Type: "tmpfs", Target: "/dev/shm"}} {
		if !slices.ContainsFunc(below, func(m mount.Info) bool {
			return m.Type == want.Type &&
				m.Target == tasks[0].Root+want.Target
		}) {
			t.Errorf("%s is not mounted on %s: %v", want.Type, want.Target, below)
		}
	}
}
