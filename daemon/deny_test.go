package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

// A denied directory of the host is denied by all the paths that lead to it, with
// what is in it and what it is in, whoever asks.
func TestDeniedDirectory(t *testing.T) {
	v := newVictim(t, `permit {
  mounts = ["nullfs:/"]
}
deny {
  mounts = ["nullfs:DIR/name/secret:ro"]
}
`)
	for _, dir := range []string{"srv/secret/deep", "srv/open"} {
		if err := os.MkdirAll(filepath.Join(v.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{"name": "srv", "again": "name/secret", "srv/open/up": ".."} {
		if err := os.Symlink(to, filepath.Join(v.dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	img := v.image(testimage.Spec{})
	for _, source := range []string{"/srv/secret", "/srv/secret/", "//srv//secret/.", "/srv/secret/deep",
		"/srv/open/../secret", "/srv", "/", "/name", "/name/secret/deep",
		"/again", "/again/deep/", "/srv/open/up", "/srv/open/up/secret", "/srv/secret/deep/..",
		"/srv/secret/deep/../.."} {
		for _, ro := range []bool{true, false} {
			m := client.Mount{Source: v.dir + source, Target: "/mnt", ReadOnly: ro}
			v.refuses(client.TaskSpec{Image: img, Volumes: []client.Mount{m}}, "denied")
			v.refuses(client.TaskSpec{Image: img, Dirs: []client.Mount{m}}, "denied")
		}
	}
	if _, err := v.c.Start(t.Context(), client.TaskSpec{ID: "good", Image: img,
		Volumes: []client.Mount{{Source: v.dir + "/srv/open", Target: "/mnt"}},
		Dirs:    []client.Mount{{Source: v.dir + "/host", Target: "/host", ReadOnly: true}}}); err != nil {
		t.Errorf("beside it: %v", err)
	}
	if err := v.c.Destroy(t.Context(), "good", true); err != nil {
		t.Error(err)
	}
}

// A denied user is denied by its number, and by every name that the image's own
// files have for it.
func TestDeniedUser(t *testing.T) {
	for _, deny := range []string{"www", "80"} {
		v := newVictim(t, "deny {\n users = [\""+deny+"\"]\n}\n")
		img := v.image(testimage.Spec{Name: "web", Cmd: []string{"inside"},
			Files: map[string]string{
				"/etc/passwd": "root:*:0:0::/:/x\nwww:*:80:80::/:/x\nhttp:*:80:80::/:/x\nother:*:81:81::/:/x\n",
				"/etc/group":  "www:*:80:\n"}})
		for _, user := range []string{"www", "80", "http", "www:81", "http:www", "0080"} {
			v.refuses(client.TaskSpec{Image: img, User: user}, "denied")
		}
		if _, err := v.c.Start(t.Context(), client.TaskSpec{ID: "good", Image: img, User: "other:80"}); err != nil {
			t.Errorf("another user: %v", err)
		}
		if err := v.c.Destroy(t.Context(), "good", true); err != nil {
			t.Error(err)
		}
	}
}

// What a task asks for is bounded in number, and no mount hides another.
func TestTooMuchAtOnce(t *testing.T) {
	v := newVictim(t, "permit {\n mounts = [\"tmpfs:/:size<=1GiB\"]\n ports = [\"1-65535\"]\n}\n")
	img := v.image(testimage.Spec{})
	tmpfs := func(n int, size string) (out []client.Mount) {
		for i := range n {
			out = append(out, client.Mount{Type: "tmpfs", Target: "/m" + strconv.Itoa(i), Options: "size=" + size})
		}
		return out
	}
	v.refuses(client.TaskSpec{Image: img, Volumes: tmpfs(100, "1g")},
		"permits a task 1GiB of memory together, and it asks for 100GiB")
	v.refuses(client.TaskSpec{Image: img, Volumes: tmpfs(200, "1")}, "200 mounts; at most 128 are allowed")
	v.refuses(client.TaskSpec{Image: img, Volumes: append(tmpfs(2, "1k"), client.Mount{Type: "tmpfs", Target: "/m1/",
		Options: "size=1k"})}, "two mounts on /m1")
	var ports []string
	for i := range 300 {
		ports = append(ports, fmt.Sprintf(`{"name":"p%d","port":%d}`, i, i+2000))
	}
	v.refuses(client.TaskSpec{Image: v.image(testimage.Spec{Name: "ports", Cmd: []string{"inside"},
		Manifest: `{"schemaVersion":1,"ports":[` + strings.Join(ports, ",") + `]}`})},
		"300 ports; at most 256 are allowed")
}
