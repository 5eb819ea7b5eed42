package daemon

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

// oneFile is an archive of a file.
func oneFile(t *testing.T, name string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: 4}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "evil"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// A task that exchanges a directory for a link to the host's all the time gets nothing of the host's into a copy, and
// has nothing written there.
func TestCopiesStayInTheRoot(t *testing.T) {
	v := newVictim(t, "")
	img := v.image(testimage.Spec{Name: "flip", Cmd: []string{"flip", "/data", filepath.Dir(v.secret)},
		Files: map[string]string{"/data/a/secret": "of the task"}})
	if _, err := v.c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: img}); err != nil {
		t.Fatal(err)
	}
	none := func(string) {}
	did := map[string]int{}
	for range 10 * races() {
		for _, path := range []string{"/data", "/data/a/secret", "/data/a/", "/data/l/secret"} {
			var b bytes.Buffer
			if v.c.Copy(t.Context(), "one", client.CopySpec{Path: path, Follow: true},
				client.CopyIO{To: &b, Problem: none}) == nil {
				did[path]++
			}
			if strings.Contains(b.String(), "sesame") {
				t.Fatalf("%s: a file of the host was copied", path)
			}
		}
		for _, c := range []struct{ dst, name string }{{"/data/a", "x"}, {"/data", "a/x"}, {"/data/a/secret", ""}} {
			spec := client.CopySpec{Path: c.dst, In: true}
			if c.name == "" {
				c.name, spec.Name = "secret", "secret"
			}
			if v.c.Copy(t.Context(), "one", spec, client.CopyIO{From: oneFile(t, c.name), Problem: none}) == nil {
				did[c.dst]++
			}
		}
	}
	t.Logf("done: %v", did)
	if did["/data"] == 0 || did["/data/a/secret"] == 0 || did["/data/a"] == 0 {
		t.Errorf("nothing was copied: %v", did)
	}
	files, err := os.ReadDir(filepath.Dir(v.secret))
	if b, rerr := os.ReadFile(v.secret); err != nil || rerr != nil || string(b) != "sesame" || len(files) != 1 {
		t.Errorf("the host has %v, and %q: %v %v", files, b, err, rerr)
	}
	if err := v.c.Destroy(t.Context(), "one", true); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, v.dir)
}

// Who is not root of the host copies where the policy lets it be root in the task.
func TestWhoMayCopy(t *testing.T) {
	v := newVictim(t, "socket_group = \"65534\"\ndeny {\n  users = [\"root\"]\n  from  = [\"job\"]\n}\n")
	prog := filepath.Join(v.dir, "prog")
	b, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = os.WriteFile(prog, b, 0o755)
	}
	if err == nil {
		err = os.Chmod(v.dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"/etc/passwd": "www:*:80:81::/:/x\n", "/secret": "the task's"}
	for user, want := range map[string]string{"www": "denied", "": "the task's"} {
		id := "as" + user
		img := v.image(testimage.Spec{Name: "prog", Cmd: []string{"inside"}, User: user, Files: files})
		if _, err := v.c.Start(t.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: img}); err != nil {
			t.Fatal(err)
		}
		for who, want := range map[uint32]string{0: "the task's", 12345: want} {
			cmd := exec.Command(prog, "copy", filepath.Join(v.dir, "s"), id, "/secret")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: who, Gid: 65534}}
			if out, err := cmd.CombinedOutput(); !strings.Contains(string(out), want) {
				t.Errorf("uid %d copies of a task of %q: %s %v", who, user, out, err)
			}
		}
		if err := v.c.Destroy(t.Context(), id, true); err != nil {
			t.Fatal(err)
		}
	}
}

// Many copies at once, some without a reader, end with the task, and no more than a number are let in.
func TestCopiesEndWithTheTask(t *testing.T) {
	v := newVictim(t, "")
	img := v.image(testimage.Spec{Name: "prog", Cmd: []string{"inside"}, Zeros: map[string]int64{"/large": 64 << 20}})
	if _, err := v.c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: img}); err != nil {
		t.Fatal(err)
	}
	ended, begun := make(chan error, 30), make(chan bool, 30)
	for range 30 {
		go func() {
			r, w := io.Pipe()
			go func() {
				_, err := r.Read(make([]byte, 1))
				begun <- err == nil
			}()
			err := v.c.Copy(t.Context(), "one", client.CopySpec{Path: "/large"}, client.CopyIO{To: w})
			w.CloseWithError(io.ErrClosedPipe)
			ended <- err
		}()
	}
	under := 0
	for range 30 {
		if <-begun {
			under++
		} else if err := <-ended; err == nil || !strings.Contains(err.Error(), "are under way") {
			t.Errorf("refused by %v", err)
		}
	}
	if under != 16 {
		t.Errorf("%d copies are under way", under)
	}
	if err := v.c.Destroy(t.Context(), "one", true); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, v.dir)
}
