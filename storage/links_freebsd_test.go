package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fillLinks makes a tree with links, some with an owner, a mode and times of
// their own, in directories that have some too.
func fillLinks(dir string) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(os.MkdirAll(at("usr/lib/deep"), 0o755), os.MkdirAll(at("etc/plain"), 0o755),
		os.Symlink("lib.so.1", at("usr/lib/lib.so")), os.Symlink("../lib.so", at("usr/lib/deep/far")),
		os.Symlink("/"+strings.Repeat("long/", 100), at("etc/long")), os.Symlink("etc", at("conf")),
		os.WriteFile(at("usr/lib/lib.so.1"), []byte("library"), 0o644), os.WriteFile(at("etc/plain/file"), nil, 0o644))
	err = errors.Join(err, os.Lchown(at("usr/lib/deep/far"), 1001, 1002),
		unix.Fchmodat(unix.AT_FDCWD, at("etc/long"), 0o700, unix.AT_SYMLINK_NOFOLLOW),
		os.Chown(at("usr/lib/deep"), 1003, 1004), unix.Chmod(at("usr/lib/deep"), 0o1711), unix.Chmod(dir,
			0o751), os.Chown(dir, 0, 1005))
	for _, name := range []string{"usr/lib/lib.so", "usr/lib/deep/far", "usr/lib/deep", "etc/long", "conf", "etc", ""} {
		err = errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, at(name), []unix.Timespec{longAgo, longAgo},
			unix.AT_SYMLINK_NOFOLLOW))
	}
	return err
}

var ofFillLinks = []string{"", "conf", "etc", "etc/long", "etc/plain", "usr", "usr/lib", "usr/lib/deep",
	"usr/lib/deep/far", "usr/lib/lib.so", "usr/lib/lib.so.1"}

// linked makes a root with copies of an image's links.
func linked(t *testing.T, fill func(string) error) (u union, root string) {
	t.Helper()
	u = openFor(t, "union").(union)
	if err := ensure(t.Context(), u, "c", fill); err != nil {
		t.Fatal(err)
	}
	root, err := u.Create(t.Context(), "c", "t", Options{Links: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		check(t, errors.Join(u.Remove(context.Background(), "t"), u.RemoveChain(context.Background(), "c")))
	})
	return u, root
}

// An image's links can be changed as links of the task's own, which begin as the
// image's are.
func TestLinksOfAnImage(t *testing.T) {
	u, root := linked(t, fillLinks)
	asInTheImage(t, u.path("chains", "c"), root)
	changeLinks(t, root)
}

func asInTheImage(t *testing.T, chain, root string) {
	t.Helper()
	for _, name := range ofFillLinks {
		var want, got unix.Stat_t
		if err := errors.Join(unix.Lstat(filepath.Join(chain, name), &want),
			unix.Lstat(filepath.Join(root, name), &got)); err != nil {
			t.Fatal(err)
		}
		want.Atim = got.Atim // looking changes it
		if attributesOf(&want) != attributesOf(&got) || want.Size != got.Size && got.Mode&unix.S_IFMT == unix.S_IFLNK {
			t.Errorf("/%s is %+v, of the image %+v", name, attributesOf(&got), attributesOf(&want))
		}
	}
}

func changeLinks(t *testing.T, root string) {
	for _, name := range []string{"conf", "etc/long", "usr/lib/deep/far", "usr/lib/lib.so"} {
		p := filepath.Join(root, name)
		err := errors.Join(os.Lchown(p, 7, 8), unix.Fchmodat(unix.AT_FDCWD, p, 0o711, unix.AT_SYMLINK_NOFOLLOW),
			unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 5}, {Sec: 6}}, unix.AT_SYMLINK_NOFOLLOW))
		var st unix.Stat_t
		if err = errors.Join(err, unix.Lstat(p, &st)); err != nil {
			t.Error(err)
		} else if got := attributesOf(&st); got != (attributes{0o711, 7, 8, [2]unix.Timespec{{Sec: 5}, {Sec: 6}}}) {
			t.Errorf("/%s became %+v", name, got)
		}
	}
	if b, err := os.ReadFile(root + "/usr/lib/lib.so"); err != nil || string(b) != "library" {
		t.Errorf("through a link: %q, %v", b, err)
	}
	if err := errors.Join(os.Remove(root+"/usr/lib/lib.so"), os.Rename(root+"/usr/lib/deep/far",
		root+"/usr/lib/near")); err != nil {
		t.Error(err)
	}
	for name, there := range map[string]bool{"usr/lib/lib.so": false, "usr/lib/deep/far": false, "usr/lib/near": true,
		"usr/lib/lib.so.1": true, "etc/plain/file": true} {
		if _, err := os.Lstat(filepath.Join(root, name)); err == nil != there {
			t.Errorf("/%s after a removal and a renaming: %v", name, err)
		}
	}
}

// The list of an image's links is made once, and again where it is damaged.
func TestListOfLinks(t *testing.T) {
	u, _ := linked(t, fillLinks)
	list := u.path("links", "c")
	whole, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	write := func(b []byte) func() error { return func() error { return os.WriteFile(list, b, 0o600) } }
	for _, damage := range []func() error{write(nil), write(whole[:len(whole)/2]), write(make([]byte, len(whole))),
		func() error { return unix.Mkfifo(list, 0o600) }, func() error { return os.Mkdir(list, 0o700) }} {
		if err := errors.Join(os.Remove(list), damage()); err != nil {
			t.Fatal(err)
		}
		if _, err := u.linksOf(t.Context(), "c"); err != nil {
			t.Error(err)
		}
		if again, err := os.ReadFile(list); err != nil || len(again) < len(whole)/2 || !json.Valid(again) {
			t.Errorf("a damaged list became %q, %v", again, err)
		}
	}
	check(t, errors.Join(u.Remove(t.Context(), "t"), u.RemoveChain(t.Context(), "c")))
	if left, err := os.ReadDir(u.path("links")); err != nil || len(left) > 0 {
		t.Errorf("lists that outlive their chains: %v, %v", left, err)
	}
}

// What a task has left of its links serves the next one, and nothing else of what
// it did to them.
func TestSpareLinks(t *testing.T) {
	u, root := linked(t, fillLinks)
	spares, err := u.spares("c")
	if err != nil {
		t.Fatal(err)
	}
	inode := func(root, name string) uint64 {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, name), &st); err != nil {
			t.Error(err)
		}
		return st.Ino
	}
	was := inode(root, "usr/lib/lib.so")
	for what, change := range map[string]func(root string) error{
		"nothing":  func(string) error { return nil },
		"an owner": func(root string) error { return os.Lchown(root+"/conf", 66, 66) },
		"a mode": func(root string) error {
			return unix.Fchmodat(unix.AT_FDCWD, root+"/conf", 0o111, unix.AT_SYMLINK_NOFOLLOW)
		},
		"another link": func(root string) error {
			return errors.Join(os.Remove(root+"/conf"),
				os.Symlink("tmp", root+"/conf"))
		},
		"a directory": func(root string) error {
			return errors.Join(os.Remove(root+"/conf"),
				os.Mkdir(root+"/conf", 0o700))
		},
		"a second name": func(root string) error {
			return unix.Linkat(unix.AT_FDCWD, root+"/conf", unix.AT_FDCWD, root+"/second", 0)
		},
		"file flags": func(root string) error { return freeze(root + "/usr/lib/deep") },
		"a file for etc": func(root string) error {
			return errors.Join(os.RemoveAll(root+"/etc"), os.WriteFile(root+"/etc", nil, 0o600))
		},
		"an opaque etc": func(root string) error {
			return errors.Join(os.RemoveAll(root+"/etc"),
				os.Mkdir(root+"/etc", 0o700))
		},
		"a link for usr": func(root string) error {
			return errors.Join(os.Rename(root+"/usr", root+"/was"), os.Symlink("/", root+"/usr"))
		},
		"more in it": func(root string) error { return os.WriteFile(root+"/usr/lib/more", nil, 0o600) },
		"what etc may do": func(root string) error {
			return errors.Join(os.Chmod(root+"/etc", 0o777), os.Chown(root+"/etc", 66, 66))
		},
	} {
		if err := change(root); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		check(t, u.Remove(t.Context(), "t"))
		if left, err := os.ReadDir(spares); err != nil || len(left) != 1 {
			t.Errorf("%s: spare directories: %v, %v", what, left, err)
		}
		if root, err = u.Create(t.Context(), "c", "t", Options{Links: true}); err != nil {
			t.Fatal(err)
		}
		asInTheImage(t, u.path("chains", "c"), root)
		if left, err := os.ReadDir(spares); err != nil || len(left) > 0 {
			t.Errorf("%s: spare directories after a start: %v, %v", what, left, err)
		}
		for _, name := range []string{"second", "was", "usr/lib/more"} {
			if _, err := os.Lstat(filepath.Join(root, name)); err == nil {
				t.Errorf("%s: the next task has /%s", what, name)
			}
		}
		if names, err := os.ReadDir(u.path("tmp")); err != nil || len(names) > 0 {
			t.Errorf("%s: left in tmp: %v, %v", what, names, err)
		}
		if what == "nothing" && was != inode(root, "usr/lib/lib.so") {
			t.Error("a link was made again")
		}
		was = inode(root, "usr/lib/lib.so")
	}
	for i := range maxSpare + 2 {
		if _, err := u.Create(t.Context(), "c", fmt.Sprint("t", i), Options{Links: true}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range maxSpare + 2 {
		check(t, u.Remove(t.Context(), fmt.Sprint("t", i)))
	}
	if left, err := os.ReadDir(spares); err != nil || len(left) != maxSpare {
		t.Errorf("spare directories: %v, %v", left, err)
	}
	check(t, errors.Join(u.Remove(t.Context(), "t"), u.RemoveChain(t.Context(), "c")))
	if _, err := os.Stat(spares); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("spare directories outlive their chain: %v", err)
	}
}

// What a root begins with is bounded: of too many links none is copied, and none
// below what is too deep.
func TestTooManyLinks(t *testing.T) {
	deep := strings.Repeat("d/", maxLinkDepth+1)
	_, root := linked(t, func(dir string) error {
		err := errors.Join(os.MkdirAll(filepath.Join(dir, deep), 0o755), os.Symlink("x", filepath.Join(dir, "link")),
			os.Symlink("x", filepath.Join(dir, deep, "link")))
		return err
	})
	if err := os.Lchown(filepath.Join(root, "link"), 1, 1); err != nil {
		t.Error(err)
	}
	if err := os.Lchown(filepath.Join(root, deep, "link"), 1, 1); !errors.Is(err, unix.EROFS) {
		t.Errorf("the owner of a link that is too deep: %v", err)
	}
	_, root = linked(t, func(dir string) error {
		for i := range maxLinks + 1 {
			if err := os.Symlink("x", filepath.Join(dir, fmt.Sprint(i))); err != nil {
				return err
			}
		}
		return nil
	})
	if err := os.Lchown(filepath.Join(root, "1"), 1, 1); !errors.Is(err, unix.EROFS) {
		t.Errorf("the owner of one of too many links: %v", err)
	}
	entries, err := os.ReadDir(root)
	if err != nil || len(entries) != maxLinks+1 || !slices.IsSortedFunc(entries,
		func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) }) {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}
