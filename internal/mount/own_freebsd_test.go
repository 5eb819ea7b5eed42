package mount

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// by runs a program that mounts or unmounts, as others than this process do.
func by(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func targets(t *testing.T, dir string) (out []string) {
	t.Helper()
	there, err := Below(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range there {
		out = append(out, strings.TrimPrefix(m.Target, dir+"/"))
	}
	return out
}

// What this process has mounted goes without a list of the host's mounts; what is another's is left, and told of.
func TestReleaseOwn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	memory := func(target string) {
		if err := os.MkdirAll(target, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := Do(Mount{Type: "tmpfs", Target: target, Options: []string{"size=1048576"}}); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		others func(a string)
		done   bool
		left   string
	}{
		"alone":     {func(string) {}, true, "a-b"},
		"within":    {func(a string) { by(t, "/sbin/mount", "-t", "tmpfs", "tmpfs", a+"/c") }, false, "a/c a-b a"},
		"on top":    {func(a string) { by(t, "/sbin/mount", "-t", "tmpfs", "tmpfs", a) }, false, "a a-b a"},
		"unmounted": {func(a string) { by(t, "/sbin/umount", a+"/b") }, true, "a-b"},
		"learned": {func(a string) {
			by(t, "/sbin/mount", "-t", "tmpfs", "tmpfs", a+"/c")
			if err := LearnOwn(filepath.Dir(a)); err != nil {
				t.Fatal(err)
			}
		}, true, "a-b"},
		"of an earlier process": {func(string) { own = ownMounts{} }, false, "a-b a/b a"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := realTemp(t)
			t.Cleanup(func() {
				if err := UnmountUnder(dir); err != nil {
					t.Error(err)
				}
			})
			a := filepath.Join(dir, "a")
			memory(a)
			memory(a + "/b")
			memory(a + "-b")
			if err := os.Mkdir(a+"/c", 0o700); err != nil {
				t.Fatal(err)
			}
			c.others(a)
			own.looked = time.Now().Add(time.Hour) // however long this takes
			before := listing.count
			done := ReleaseOwn(a, a)
			if listing.count != before {
				t.Error("the mounts of the host were listed")
			}
			if there := strings.Join(targets(t, a), " "); c.done && there != a {
				t.Errorf("but for the one that is to stay there are %q", there)
			}
			if done = ReleaseOwn("", a) && done; done != c.done {
				t.Errorf("all is unmounted: %v", done)
			}
			if left := strings.Join(targets(t, dir), " "); left != c.left {
				t.Errorf("there are %q, want %q", left, c.left)
			}
			if err := ReleaseUnder(a); err != nil {
				t.Error(err)
			}
			if left := strings.Join(targets(t, dir), " "); left != "a-b" {
				t.Errorf("at last there are %q", left)
			}
			if left := own.below([]string{a}); len(left) > 0 {
				t.Errorf("noted are still %v", left)
			}
		})
	}
}

// A mount that somebody else has taken away is forgotten before another has its number: that one is left.
func TestReleaseOwnLooks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := realTemp(t)
	t.Cleanup(func() {
		if err := UnmountUnder(dir); err != nil {
			t.Error(err)
		}
	})
	ours, others := dir+"/ours", dir+"/others"
	for _, target := range []string{ours, others} {
		if err := os.Mkdir(target, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := Do(Mount{Type: "tmpfs", Target: ours, Options: []string{"size=1048576"}}); err != nil {
		t.Fatal(err)
	}
	by(t, "/sbin/mount", "-t", "tmpfs", "tmpfs", others)
	at, err := At(others)
	if err != nil {
		t.Fatal(err)
	}
	own.add(Info{Target: ours + "/gone", id: at.id})
	own.looked = time.Now().Add(-2 * lookEvery)
	ReleaseOwn("", ours)
	if left := strings.Join(targets(t, dir), " "); left != "others" {
		t.Errorf("there are %q, want that of others alone", left)
	}
	if left := own.below([]string{ours}); len(left) > 0 {
		t.Errorf("noted are still %v", left)
	}
}

// A number that another mount has now is no more that of the one which had it.
func TestNumbersOfMounts(t *testing.T) {
	o := &ownMounts{}
	for _, m := range []Info{{Target: "/a", id: "FSID:1:2"}, {Target: "/a/b", id: "FSID:-3:4"}, {Target: "/a",
		id: "FSID:5:2"}, {Target: "/a-b", id: "FSID:6:2"}, {Target: "/c", id: "FSID:1:2"}} {
		o.add(m)
	}
	got := ""
	for _, m := range o.below([]string{"/a"}) {
		got += m.Target + " " + m.id + ","
	}
	if want := "/a FSID:5:2,/a/b FSID:-3:4,"; got != want {
		t.Errorf("below /a are %q, want %q", got, want)
	}
	o.remove(Info{Target: "/a", id: "FSID:5:2"})
	if left := o.below([]string{"/a", "/c"}); len(left) != 2 || left[0].Target != "/c" {
		t.Errorf("left are %v", left)
	}
}
