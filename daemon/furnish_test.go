package daemon

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

// kindsHere are the storage drivers of this host, and the settings that they need.
func kindsHere(t *testing.T) map[string]string {
	if runtime.GOOS == "linux" {
		return map[string]string{"overlay": "", "readonly": ""}
	}
	kinds := map[string]string{"union": "", "readonly": ""}
	if pool := os.Getenv("FREEJAIL_TEST_ZPOOL"); pool != "" {
		dataset := fmt.Sprintf("%s/freejail-names-%d", pool, os.Getpid())
		t.Cleanup(func() {
			if said, err := exec.Command("zfs", "destroy", "-rf", dataset).CombinedOutput(); err != nil {
				t.Errorf("zfs destroy: %v: %s", err, said)
			}
		})
		kinds["zfs"] = fmt.Sprintf("  zfs_dataset = %q\n", dataset)
	}
	return kinds
}

// A task finds names by files of its own, whatever its image has in their place, and may
// write to the volumes of the image's configuration; with every storage driver.
func TestNamesAndVolumes(t *testing.T) {
	for kind, more := range kindsHere(t) {
		t.Run(kind, func(t *testing.T) {
			dir := shortDir(t)
			c, _ := daemonAt(t, dir, fmt.Sprintf("storage {\n  driver = %q\n%s}\npermit { mounts = [\"nullfs:/\"] }", kind,
				more))
			outside := t.TempDir()
			for name, spec := range map[string]testimage.Spec{"bare": {}, "links": {Links: map[string]string{
				"/etc/hosts": filepath.Join(outside, "hosts"), "/etc/resolv.conf": "../run/resolv.conf"}},
				"files":  {Files: map[string]string{"/etc/hosts": "image's", "/etc/resolv.conf": "image's"}},
				"a link": {Links: map[string]string{"/etc": outside}}} {
				spec.Name, spec.Volumes = "prog", []string{"/data/", "/srv/of/it"}
				namesOf(t, c, name, spec, kind)
			}
			if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
				t.Errorf("made on the host: %v %v", left, err)
			}
			if kind != "zfs" { // whose images stay mounted
				nothingLeft(t, dir)
			}
		})
	}
}

func namesOf(t *testing.T, c *client.Client, name string, image testimage.Spec, kind string) {
	t.Helper()
	path, err := testimage.Write(t.Context(), t.TempDir(), image)
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "own")
	if err := os.WriteFile(own, []byte("the job's\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	spec := client.TaskSpec{ID: "one", Owner: "cli", Image: path, Hostname: "web.example.com",
		DNS:        &client.DNS{Servers: []string{"192.0.2.53"}, Searches: []string{"a.example"}, Options: []string{"ndots:2"}},
		ExtraHosts: []string{"db:192.0.2.7"}, Args: []string{"names", "/etc/resolv.conf", "/etc/hosts", "/data/x",
			"/srv/of/it/x", "/etc/hosts", "/x"}}
	want := fmt.Sprintf("/data/x true\n/srv/of/it/x true\n/etc/hosts %[1]t\n/x %[1]t\n", kind != "readonly")
	if got := outputOf(t, c, spec); !strings.Contains(got, "\nsearch a.example\nnameserver 192.0.2.53\noptions ndots:2\n") ||
		!strings.Contains(got, "127.0.0.1\t\tlocalhost\n") && !strings.Contains(got, "127.0.0.1\tlocalhost\n") ||
		!strings.Contains(got, "\n192.0.2.7\tdb\n127.0.0.1\tweb.example.com web\n") || !strings.HasSuffix(got, want) {
		t.Errorf("%s: %s", name, got)
	}
	if name == "a link" { // a mount goes over no absolute link
		return
	}
	spec.Volumes = []client.Mount{{Source: own, Target: "/etc/hosts", ReadOnly: true}}
	if name == "links" {
		spec.Volumes[0].Target = "/srv/of/it/hosts"
		spec.Args[2] = spec.Volumes[0].Target
	}
	if kind == "union" { // unionfs shows no mount on a file
		if _, err := c.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "mount its directory") {
			t.Errorf("%s: a file was mounted: %v", name, err)
		}
		return
	}
	if got := outputOf(t, c, spec); !strings.Contains(got, "the job's\n<nil>\n") {
		t.Errorf("%s, with a mount of the job's: %s", name, got)
	}
}

// outputOf runs a task to its end.
func outputOf(t *testing.T, c *client.Client, spec client.TaskSpec) string {
	t.Helper()
	ctx := t.Context()
	if _, err := c.Start(ctx, spec); err != nil {
		t.Fatal(err)
	}
	if e, err := c.Wait(ctx, spec.ID); err != nil || e.Code != 0 {
		t.Errorf("%+v %v", e, err)
	}
	var out bytes.Buffer
	if err := c.Logs(ctx, spec.ID, "stdout", false, -1, &out); err != nil {
		t.Error(err)
	}
	if err := c.Destroy(ctx, spec.ID, false); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// What cannot be a name, an address or a volume is refused before anything is done.
func TestNamesAreChecked(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	good := archive(t, "")
	bad, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "bad", Volumes: []string{"/data", "/.."}})
	if err != nil {
		t.Fatal(err)
	}
	for want, spec := range map[string]client.TaskSpec{
		"dns: server":                          {DNS: &client.DNS{Servers: []string{"192.0.2.1\nsearch x"}}},
		"dns: search":                          {DNS: &client.DNS{Searches: []string{"a b"}}},
		"dns: \"a\\nb\" is not a valid option": {DNS: &client.DNS{Options: []string{"a\nb"}}},
		"extra_hosts: ":                        {ExtraHosts: []string{"db:192.0.2.7\n192.0.2.8 other"}},
		"hostname ":                            {Hostname: "web\n192.0.2.8 other"},
		"Volumes: ":                            {Image: bad},
	} {
		spec.ID, spec.Owner = "one", "cli"
		if spec.Image == "" {
			spec.Image = good
		}
		if _, err := c.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	nothingLeft(t, dir)
}
