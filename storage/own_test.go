package storage

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/mount"
)

// images are trees that make it hard to give a task files of its own; outside is a
// directory that no link of theirs may lead to.
var images = map[string]func(dir, outside string) error{
	"empty":     func(string, string) error { return nil },
	"etc alone": func(dir, _ string) error { return os.Mkdir(dir+"/etc", 0o755) },
	"files": func(dir, _ string) error {
		return errors.Join(os.Mkdir(dir+"/etc", 0o755), os.WriteFile(dir+"/etc/hosts", []byte("image's"), 0o600),
			os.WriteFile(dir+"/etc/resolv.conf", nil, 0))
	},
	"hard links": func(dir, _ string) error {
		return errors.Join(os.Mkdir(dir+"/etc", 0o755), os.WriteFile(dir+"/etc/passwd", []byte("image's"), 0o644),
			os.Link(dir+"/etc/passwd", dir+"/etc/hosts"), os.Link(dir+"/etc/passwd", dir+"/etc/resolv.conf"))
	},
	"links": func(dir, outside string) error {
		return errors.Join(os.Mkdir(dir+"/etc", 0o755), os.Symlink(outside+"/hosts", dir+"/etc/hosts"),
			os.Symlink("../run/systemd/resolve/stub-resolv.conf", dir+"/etc/resolv.conf"))
	},
	"links to what is there": func(dir, outside string) error {
		return errors.Join(os.Mkdir(dir+"/etc", 0o755), os.WriteFile(dir+"/etc/passwd", []byte("image's"), 0o644),
			os.Symlink("/etc/passwd", dir+"/etc/hosts"), os.Symlink(outside, dir+"/etc/resolv.conf"))
	},
	"loops": func(dir, _ string) error {
		return errors.Join(os.Mkdir(dir+"/etc", 0o755), os.Symlink("hosts", dir+"/etc/hosts"),
			os.Symlink("/etc/resolv.conf", dir+"/etc/resolv.conf"))
	},
	"directories": func(dir, _ string) error {
		return errors.Join(os.MkdirAll(dir+"/etc/hosts/in/it", 0o755), os.MkdirAll(dir+"/etc/resolv.conf", 0))
	},
	"FIFOs": func(dir, _ string) error {
		return errors.Join(os.Mkdir(dir+"/etc", 0o755), unix.Mkfifo(dir+"/etc/hosts", 0o644),
			unix.Mkfifo(dir+"/etc/resolv.conf", 0o644))
	},
	"etc elsewhere": func(dir, _ string) error {
		return errors.Join(os.MkdirAll(dir+"/usr/etc", 0o755), os.Symlink("usr/etc", dir+"/etc"),
			os.WriteFile(dir+"/usr/etc/hosts", []byte("image's"), 0o644))
	},
	"etc by an absolute link": func(dir, _ string) error {
		return errors.Join(os.MkdirAll(dir+"/usr/etc", 0o755), os.Symlink("/usr/etc", dir+"/etc"))
	},
	"etc outside":    func(dir, outside string) error { return os.Symlink(outside, dir+"/etc") },
	"etc above":      func(dir, outside string) error { return os.Symlink("../../../../.."+outside, dir+"/etc") },
	"etc by nothing": func(dir, _ string) error { return os.Symlink("none/at/../all", dir+"/etc") },
	"etc in a loop":  func(dir, _ string) error { return os.Symlink("/etc", dir+"/etc") },
	"etc a file":     func(dir, _ string) error { return os.WriteFile(dir+"/etc", []byte("image's"), 0o644) },
	"etc a FIFO":     func(dir, _ string) error { return unix.Mkfifo(dir+"/etc", 0o644) },
}

// A task has its own files whatever the image has in their place, and nothing else is
// changed: neither the image's other files nor what its links lead to on the host.
func TestOwnFiles(t *testing.T) { eachDriver(t, ownFiles) }

func ownFiles(t *testing.T, d Driver) {
	for name, fill := range images {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			if err := os.WriteFile(outside+"/hosts", []byte("host's"), 0o644); err != nil {
				t.Fatal(err)
			}
			chain := strings.ReplaceAll(name, " ", "-")
			if err := ensure(t.Context(), d, chain, func(dir string) error { return fill(dir, outside) }); err != nil {
				t.Fatal(err)
			}
			giveOwn(t, d, chain, Options{})
			if d.MountsOwn() {
				giveOwn(t, d, chain, Options{Writable: []string{"/etc/x"}})
				giveOwn(t, d, chain, Options{Volumes: []string{"/etc"}})
			}
			if b, err := os.ReadFile(outside + "/hosts"); err != nil || string(b) != "host's" {
				t.Errorf("the host's file is %q, %v", b, err)
			}
			if names, err := os.ReadDir(outside); err != nil || len(names) != 1 {
				t.Errorf("made on the host: %v, %v", names, err)
			}
		})
	}
}

func giveOwn(t *testing.T, d Driver, chain string, o Options) {
	t.Helper()
	ctx := t.Context()
	o.Own = []File{{"/etc/hosts", []byte("task's")}, {"/etc/resolv.conf", []byte("its servers")}}
	root, err := d.Create(ctx, chain, "own", o)
	if err != nil {
		if len(o.Writable)+len(o.Volumes) == 0 { // else the image may have no place for these
			t.Error(err)
		}
		return
	}
	defer func() {
		if err := d.Remove(ctx, "own"); err != nil {
			t.Error(err)
		}
	}()
	r, err := mount.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, f := range o.Own {
		at, err := r.FileInside(f.Path)
		if err != nil {
			t.Errorf("%+v: %v", o, err)
			continue
		}
		var st unix.Stat_t
		b, err := os.ReadFile(at.Path())
		if err = errors.Join(err, unix.Lstat(at.Path(), &st), at.Close()); err != nil || st.Nlink != 1 ||
			filepath.Base(at.Path()) != filepath.Base(f.Path) {
			t.Errorf("%s is %s, %d links, %v", f.Path, at.Path(), st.Nlink, err)
		}
		if !d.MountsOwn() && (string(b) != string(f.Text) || st.Mode&0o7777 != 0o644 || st.Uid != 0) {
			t.Errorf("%s: %q of %d, mode %o", f.Path, b, st.Uid, st.Mode)
		}
	}
	if b, err := os.ReadFile(root + "/etc/passwd"); err == nil && string(b) != "image's" {
		t.Errorf("another file of the image is %q", b)
	}
}

// A tree that has an /etc gets files for them to be mounted over, which no start has to make.
func TestOwnPointsInATree(t *testing.T) {
	outside := t.TempDir()
	for name, want := range map[string]bool{"etc alone": true, "files": true, "links": true, "empty": false,
		"etc outside": false, "etc a FIFO": false, "etc elsewhere": false} {
		dir := t.TempDir()
		if err := images[name](dir, outside); err != nil {
			t.Fatal(err)
		}
		if want {
			if err := unix.UtimesNanoAt(unix.AT_FDCWD, dir+"/etc", []unix.Timespec{longAgo, longAgo}, 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := makeOwnPoints(dir); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, file := range []string{ResolverFile, HostsFile} {
			if _, err := os.Lstat(dir + file); (err == nil) != want && name != "etc elsewhere" {
				t.Errorf("%s: %s: %v", name, file, err)
			}
		}
		var st unix.Stat_t
		if err := unix.Stat(dir+"/etc", &st); want && (err != nil || st.Mtim != longAgo) {
			t.Errorf("%s: the directory's time is %v, %v", name, st.Mtim, err)
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("made on the host: %v %v", left, err)
	}
}

// Volumes are made, writable and filled with what the image has there.
func TestVolumes(t *testing.T) { eachDriver(t, volumes) }

func volumes(t *testing.T, d Driver) {
	ctx := t.Context()
	if err := ensure(ctx, d, "v", func(dir string) error {
		return errors.Join(os.MkdirAll(dir+"/data/deep", 0o755), os.Chown(dir+"/data", 5, 6), unix.Chmod(dir+"/data", 0o1770),
			os.WriteFile(dir+"/data/deep/f", []byte("image's"), 0o640), unix.Mkfifo(dir+"/data/fifo", 0o622),
			os.MkdirAll(dir+"/var", 0o755), os.Mkdir(dir+"/run", 0o755), os.Symlink("/run", dir+"/var/run"))
	}); err != nil {
		t.Fatal(err)
	}
	vols := []string{"/data", "/data/deep", "/new", "/a/b/c", "/var/run/app", "/sys/fs/cgroup"}
	root, err := d.Create(ctx, "v", "one", Options{Volumes: vols, Writable: []string{"/tmp"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range append(vols, "/run/app") {
		if v == "/var/run/app" { // as the task sees it
			v = "/run/app"
		}
		if err := os.WriteFile(root+v+"/written", nil, 0o644); err != nil {
			t.Error(err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(root+"/data", &st); err != nil || st.Mode&0o7777 != 0o1770 || st.Uid != 5 || st.Gid != 6 {
		t.Errorf("mode %o of %d:%d, %v", st.Mode, st.Uid, st.Gid, err)
	}
	if b, err := os.ReadFile(root + "/data/deep/f"); err != nil || string(b) != "image's" {
		t.Errorf("%q, %v", b, err)
	}
	if d.MountsOwn() {
		if err := os.WriteFile(root+"/written", nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("the root itself: %v", err)
		}
	}
	if err := d.Remove(ctx, "one"); err != nil {
		t.Error(err)
	}
	if root, err = d.Create(ctx, "v", "two", Options{Volumes: vols}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root + "/data/written"); err == nil {
		t.Error("what one task wrote the next one has")
	}
	if err := d.Remove(ctx, "two"); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]string{"/data/deep/f": "directory", "/data/fifo/x": "directory"} {
		if _, err := d.Create(ctx, "v", "bad", Options{Volumes: []string{path}}); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
