package daemon

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

// operate tries what a member of the socket's group may do, and what it may not.
func operate(c *client.Client) int {
	ctx := context.Background()
	task := client.TaskSpec{ID: "operators", Owner: "cli", Image: "prog", By: "somebody else",
		Parameters: map[string]string{"GREETING": "x"}}
	t, err := c.Start(ctx, task)
	fmt.Println("start:", err)
	if t != nil {
		fmt.Println("by:", t.Spec.By)
	}
	_, err = c.Tasks(ctx)
	fmt.Println("list:", err)
	fmt.Println("remove:", c.Destroy(ctx, "operators", true))
	_, err = c.Approve(ctx, client.ApproveRequest{Image: "prog", Why: "I may"})
	fmt.Println("no approve:", err)
	_, err = c.Revoke(ctx, "prog", "")
	fmt.Println("no revoke:", err)
	_, err = c.Upgrade(ctx, client.UpgradeRequest{Binary: "/bin/sh"})
	fmt.Println("no upgrade:", err)
	_, err = c.Shutdown(ctx, client.ShutdownRequest{})
	fmt.Println("no shutdown:", err)
	_, err = c.Export(ctx, client.ExportRequest{Image: "prog"})
	fmt.Println("no export:", err)
	fmt.Println("no unexport:", c.RemoveExport(ctx, "prog"))
	for what, spec := range map[string]client.TaskSpec{"nomad": {Owner: "nomad"}, "stdout": {Stdout: "/etc/passwd"},
		"stderr": {Stderr: "/etc/passwd"}, "dirs": {Dirs: []client.Mount{{Source: "/", Target: "/host"}}},
		"confined":  {Confined: []string{"/"}},
		"cpuset_of": {Limits: client.Limits{CPUSetOf: "/sys/fs/cgroup"}},
		"namespace": {Labels: map[string]string{"namespace": "infra", "job": "backup"}},
		"alloc_id":  {Labels: map[string]string{"alloc_id": "11111111-2222-3333-4444-555555555555"}},
		"meta":      {Labels: map[string]string{"freejail": "/elsewhere"}}} {
		spec.ID, spec.Image = "operators", "prog"
		if spec.Owner == "" {
			spec.Owner = "cli"
		}
		_, err := c.Start(ctx, spec)
		fmt.Println("no start with", what+":", err)
		_, err = c.CheckPolicy(ctx, spec)
		fmt.Println("no check with", what+":", err)
	}
	return 0
}

// operating runs operate as a user.
func operating(t *testing.T, socket string, who syscall.Credential) string {
	t.Helper()
	prog := filepath.Join(filepath.Dir(socket), "prog")
	b, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = os.WriteFile(prog, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(prog, "operate", socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &who}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// Members of the group of socket_group may run tasks under the policy, and do nothing with
// which they would be root; others may do nothing.
func TestSocketGroup(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "socket_group = \"65534\"\n")
	socket := filepath.Join(dir, "s")
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(socket); err != nil || fi.Mode().Perm() != 0o660 || fi.Sys().(*syscall.Stat_t).Gid != 65534 {
		t.Errorf("the socket: %+v %v", fi, err)
	}
	if _, err := c.Import(t.Context(), client.ImportRequest{Path: archive(t, greeting), Name: "prog"}, nil); err != nil {
		t.Fatal(err)
	}
	for _, who := range []syscall.Credential{{Uid: 12345, Gid: 65534}, {Uid: 12345, Gid: 12345,
		Groups: []uint32{12345, 65534, 23456}}} {
		for line := range strings.Lines(operating(t, socket, who)) {
			what, said, _ := strings.Cut(strings.TrimSpace(line), ": ")
			switch {
			case what == "by" && !strings.HasPrefix(said, "uid 12345"):
				t.Errorf("the task is started by %q", said)
			case strings.HasPrefix(what, "no ") && !strings.Contains(said, "only root may"):
				t.Errorf("%s: %s", what, said)
			case what != "by" && !strings.HasPrefix(what, "no ") && said != "<nil>":
				t.Errorf("%s: %s", what, said)
			}
		}
	}
	if err := os.Chmod(socket, 0o777); err != nil { // as an operator may by mistake
		t.Fatal(err)
	}
	other := operating(t, socket, syscall.Credential{Uid: 12345, Gid: 12345})
	if !strings.Contains(other, "start: only root and members of group 65534 may talk") {
		t.Errorf("one of another group hears %s", other)
	}
	if _, err := c.Upgrade(t.Context(), client.UpgradeRequest{}); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(socket); err != nil || fi.Mode().Perm() != fs.FileMode(0o660) {
		t.Errorf("the socket after an upgrade: %+v %v", fi, err)
	}
}

// Who is not Nomad has no namespace or job, nor an allocation, whatever its labels say.
func TestOnlyNomadsTasksAreOfAJob(t *testing.T) {
	v := newVictim(t, "permit {\n  namespaces = [\"infra\"]\n  jobs = [\"backup\"]\n  allow = [\"raw_sockets\"]\n}\n")
	spec := client.TaskSpec{ID: "one", Image: v.image(testimage.Spec{Manifest: asks(`{"allow":["raw_sockets"]}`)}),
		Labels: map[string]string{"namespace": "infra", "job": "backup", "nomad_task_id": "victim/web/x"}}
	for owner, want := range map[string]bool{"nomad": true, "cli": false} {
		spec.Owner = owner
		if d, err := v.c.CheckPolicy(t.Context(), spec); err != nil || d.Allowed != want {
			t.Errorf("a task of %s: %+v %v", owner, d, err)
		}
	}
	spec.Owner = "cli"
	if _, err := v.c.Start(t.Context(), spec); err == nil {
		t.Fatal("it started")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := v.c.Events(ctx, 0, false, func(e client.Event) error {
		if e.Labels["nomad_task_id"] != "" {
			t.Errorf("Nomad would hear %+v", e)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
