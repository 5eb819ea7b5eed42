package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/internal/mount"
)

// Volumes that lie within writable paths, or within one another, are made there and begin
// with what the image has, wherever its links lead.
func TestVolumesBelowWritablePaths(t *testing.T) { eachDriver(t, volumesBelow) }

func volumesBelow(t *testing.T, d Driver) {
	const db = "/var/lib/mysql"
	for name, fill := range map[string]func(dir string) error{
		"absent": func(string) error { return nil },
		"var":    func(dir string) error { return os.MkdirAll(dir+"/var/lib", 0o755) },
		"present": func(dir string) error {
			return errors.Join(os.MkdirAll(dir+db+"/in", 0o755), os.WriteFile(dir+db+"/in/f", []byte("image's"), 0o644))
		},
		"link": func(dir string) error {
			return errors.Join(os.MkdirAll(dir+"/var/lib", 0o755), os.Symlink("/var/db", dir+db))
		},
		"link-out": func(dir string) error {
			return errors.Join(os.MkdirAll(dir+"/var/lib", 0o755), os.Symlink("../../srv/db", dir+db))
		},
		"link-in": func(dir string) error { return os.Symlink(db, dir+"/data") },
	} {
		t.Run(name, func(t *testing.T) {
			if err := ensure(t.Context(), d, name, fill); err != nil {
				t.Fatal(err)
			}
			o := Options{Volumes: []string{"/data/more", "/data", db, db + "/in", "/tmp/x", "/new/a", "/new"}}
			root, err := d.Create(t.Context(), name, "below", o)
			if err != nil {
				t.Fatal(err)
			}
			canBeWritten(t, root, append(o.Volumes, "/var", "/tmp"))
			if b, err := os.ReadFile(root + db + "/in/f"); name == "present" && (err != nil || string(b) != "image's") {
				t.Errorf("%q, %v", b, err)
			}
			if err := d.Remove(t.Context(), "below"); err != nil {
				t.Error(err)
			}
		})
	}
}

func canBeWritten(t *testing.T, root string, dirs []string) {
	t.Helper()
	in, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for _, dir := range dirs {
		at, real, err := mount.OpenInside(in, dir)
		if err == nil {
			err = errors.Join(os.WriteFile(filepath.Join(root, real, "written"), nil, 0o644), at.Close())
		}
		if err != nil {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// A start can be ended while it makes volumes, and the mounts of the skeletons that they need
// are bounded.
func TestVolumesAreBounded(t *testing.T) { eachDriver(t, boundedVolumes) }

func boundedVolumes(t *testing.T, d Driver) {
	var vols []string
	if err := ensure(t.Context(), d, "b", func(dir string) error {
		for i := range 4 {
			vols = append(vols, fmt.Sprintf("/many%d/new", i))
			for n := range 300 {
				if err := os.MkdirAll(fmt.Sprintf("%s/many%d/%d", dir, i, n), 0o755); err != nil {
					return err
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Create(ctx, "b", "one", Options{Volumes: vols}); !errors.Is(err, context.Canceled) {
		t.Errorf("when it had ended: %v", err)
	}
	_, err := d.Create(t.Context(), "b", "one", Options{Volumes: vols})
	if bad := err != nil && strings.Contains(err.Error(), "over 1024 mounts"); bad != d.MountsOwn() || !bad && err != nil {
		t.Error(err)
	}
	if err == nil {
		if err := d.Remove(t.Context(), "one"); err != nil {
			t.Error(err)
		}
	}
}
