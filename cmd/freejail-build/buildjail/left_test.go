package buildjail_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/image/build"
)

// What a command leaves in the image's files leads the next steps nowhere on the
// host, and none of them waits for it.
func TestWhatACommandLeavesLeadsNowhere(t *testing.T) {
	for _, place := range []string{"/etc", "/mnt", "/run", "/srv", "/usr"} {
		f := setup(t, build.NetworkHost)
		f.options.Secrets = map[string]build.Secret{"s": build.Secret("hunter2")}
		victim := filepath.Join(t.TempDir(), "victim")
		for name, text := range map[string]string{"passwd": "web:*:77:78::/:/x\n", "f": "host\n"} {
			if err := os.MkdirAll(victim, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(victim, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(f.dir, "f"), []byte("image\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := f.build(
			fmt.Sprintf(`RUN ["/bin/prog", "rm", %q, "symlink", %q, %q]`, place, victim, place),
			fmt.Sprintf("COPY --chmod=0777 f %s/f", place),
			fmt.Sprintf("LINE_IN_FILE x %s/passwd", place),
			fmt.Sprintf("WORKDIR %s/work", place),
			fmt.Sprintf(`RUN --mount=type=secret,id=s,target=/sub/secret ["/bin/prog", "write", %q, "x"]`, place+"/f"))
		t.Log(place, err)
		fi, serr := os.Stat(victim)
		if serr != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: the host's directory: %v %v", place, fi.Mode(), serr)
		}
		left, rerr := os.ReadDir(victim)
		text, terr := os.ReadFile(victim + "/f")
		if rerr != nil || len(left) != 2 || terr != nil || string(text) != "host\n" {
			t.Errorf("%s: the host has %v, and %q: %v %v", place, left, text, rerr, terr)
		}
	}
}

// A FIFO is a file of the image as others are, and nobody waits for what may come
// out of one.
func TestWhatACommandLeavesIsNotWaitedFor(t *testing.T) {
	for name, want := range map[string]string{"/etc/passwd": "it is a FIFO", "/etc/group": "has no user",
		"/etc/resolv.conf": "has no user", "/x": "has no user"} {
		f := setup(t, build.NetworkHost)
		_, err := f.build(fmt.Sprintf(`RUN ["/bin/prog", "mkdir", "/etc", "rm", %q, "mkfifo", %q]`, name, name),
			`USER web`, `RUN ["/bin/prog", "ls", "/"]`)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}
