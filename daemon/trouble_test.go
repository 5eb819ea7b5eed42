package daemon

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
)

// A start on a full file system is refused by its reason, and leaves room for
// the next.
func TestStateDirectoryFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	path := archive(t, greeting)
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	// The image fits once, as it comes or unpacked, but not twice.
	if err := mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: state,
		Options: []string{"size=" + strconv.FormatInt(fi.Size()*3/2, 10)}}); err != nil {
		t.Fatal(err)
	}
	c, _ := daemonAt(t, dir, "")
	_, err = c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: path,
		Parameters: map[string]string{"GREETING": "x"}})
	if err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Fatalf("got %v, want an error that says that there is no space left", err)
	}
	if tasks, err := c.Tasks(t.Context()); err != nil || len(tasks) != 0 {
		t.Errorf("tasks: %v %v", tasks, err)
	}
	for _, sub := range []string{"tasks", "storage/roots", "storage/chains"} {
		if e, err := os.ReadDir(filepath.Join(state, sub)); err != nil && !os.IsNotExist(err) || len(e) != 0 {
			t.Errorf("%s: left: %v %v", sub, e, err)
		}
	}
	if info, err := c.Info(t.Context()); err != nil || !info.Healthy {
		t.Errorf("the daemon: %+v %v", info, err)
	}
}

func TestPolicyWithAMistake(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "permit {\n  allow = [\"raw_sockets\"]\n}\n")
	wants := client.TaskSpec{Image: archive(t, `{"schemaVersion":1,"requires":{"allow":["raw_sockets"]}}`)}
	conf := filepath.Join(dir, "freejail.hcl")
	good, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	before, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, append(good, "permit {\n  alow = [\"*\"]\n}\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = c.Reload(t.Context())
	if err == nil || !strings.Contains(err.Error(), "alow") || !strings.Contains(err.Error(), "stays in force") {
		t.Errorf("reload: %v, want the mistake and what is in force", err)
	}
	if d, err := c.CheckPolicy(t.Context(), wants); err != nil || !d.Allowed {
		t.Errorf("the policy of before is not in force: %+v %v", d, err)
	}
	after, err := c.Info(t.Context())
	if err != nil || after.PolicyDigest != before.PolicyDigest || !strings.Contains(after.PolicyError, "alow") {
		t.Errorf("the daemon tells %+v %v", after, err)
	}
	// Mended, it is taken without being told.
	if err := os.WriteFile(conf, append(good, "deny {\n  allow = [\"raw_sockets\"]\n}\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := c.CheckPolicy(t.Context(), wants); err != nil || d.Allowed {
		t.Errorf("the mended policy is not in force: %+v %v", d, err)
	}
	if now, err := c.Info(t.Context()); err != nil || now.PolicyError != "" {
		t.Errorf("the mistake of before is still told: %+v %v", now, err)
	}
}
