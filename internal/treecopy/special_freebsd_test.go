package treecopy

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/freejail/freejail/internal/mount"
)

// A special file system is known by its mount, and through nullfs by that of what lies below, in any depth.
func TestSpecialThroughNullfs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	t.Cleanup(func() { check(t, mount.UnmountUnder(dir)) })
	at := func(name string, m mount.Mount) string {
		m.Target = filepath.Join(dir, name)
		check(t, os.Mkdir(m.Target, 0o755))
		check(t, mount.Do(m))
		return m.Target
	}
	fds := at("fds", mount.Mount{Type: "fdescfs", Source: "fdescfs"})
	once := at("once", mount.Mount{Type: "nullfs", Source: fds})
	memory := at("memory", mount.Mount{Type: "tmpfs", Source: "tmpfs"})
	for path, want := range map[string]string{
		dir: "", memory: "", at("plain", mount.Mount{Type: "nullfs", Source: memory}): "",
		fds: "fdescfs", once: "fdescfs", at("twice", mount.Mount{Type: "nullfs", Source: once}): "fdescfs",
	} {
		f, err := os.Open(path)
		check(t, err)
		if got, err := special(f); err != nil || got != want {
			t.Errorf("%s: %q %v, want %q", path, got, err, want)
		}
		check(t, f.Close())
	}
}
