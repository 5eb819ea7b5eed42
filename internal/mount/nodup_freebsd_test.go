package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An image or a job can have an fdescfs in its root, with nodup too: no path of a mount leads by it into what this
// process has open.
func TestNoDescriptorOfOursIsInARoot(t *testing.T) {
	base := realTemp(t)
	root, outside := filepath.Join(base, "root"), filepath.Join(base, "outside")
	for _, d := range []string{root + "/dev/fd", root + "/again", root + "/own", outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ours, err := os.Open(outside)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	if err := os.Symlink(fmt.Sprintf("dev/fd/%d/made", ours.Fd()), filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := UnmountUnder(root); err != nil {
			t.Error(err)
		}
	})
	mountIn(t, base, root, "/dev/fd", Mount{Type: "fdescfs", Options: []string{"nodup", "nosuid"}})
	mountIn(t, base, root, "/again", Mount{Type: "nullfs", From: place(t, root+"/dev/fd")})
	r, err := OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, target := range []string{fmt.Sprintf("/dev/fd/%d", ours.Fd()), fmt.Sprintf("/dev/fd/%d/made", ours.Fd()),
		fmt.Sprintf("/again/%d/made", ours.Fd()), "/link", "/dev/fd/0"} {
		for _, open := range []func(string) (*Point, error){r.Dir, r.File, r.Inside} {
			p, err := open(target)
			if err == nil {
				p.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "fdescfs") {
				t.Errorf("%s: %v", target, err)
			}
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("something was made outside: %v %v", left, err)
	}
	for _, target := range []string{"/dev/fd", "/own"} { // as points themselves they are as good as others
		p, err := r.Dir(target)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
