package unpack

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/image"
)

func flagged(i item, flags string) item {
	i.PAXRecords, i.Format = map[string]string{"SCHILY.fflags": flags}, tar.FormatPAX
	return i
}

// dropFlags lets the test's directory be removed.
func dropFlags(t *testing.T, root string) {
	t.Helper()
	t.Cleanup(func() {
		err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
			if err != nil || e.Type()&fs.ModeSymlink != 0 {
				return err
			}
			if err := syscall.Chflags(p, 0); err != nil && err != unix.EOPNOTSUPP {
				return err
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestFileFlags(t *testing.T) {
	needRoot(t)
	probe := filepath.Join(t.TempDir(), "probe")
	if err := os.WriteFile(probe, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Chflags(probe, sfImmutable); err != nil {
		t.Skipf("file flags cannot be set here: %v", err)
	}
	if err := syscall.Chflags(probe, 0); err != nil {
		t.Skipf("system flags cannot be cleared here: %v", err)
	}
	uchg := ufImmutable
	if err := syscall.Chflags(probe, uchg); err == unix.EOPNOTSUPP {
		uchg = 0 // ZFS
	} else if err := errors.Join(err, syscall.Chflags(probe, 0)); err != nil {
		t.Fatal(err)
	}
	base := layerOf(t, flagged(dir("empty").WithMode(0o555), "schg"), flagged(file("bin/su", "1").WithMode(0o4555),
		"schg"), hardlink("bin/su2", "bin/su"),
		flagged(dir("d"), "uchg"), flagged(file("d/f", "1"), "schg,nodump"),
		flagged(file("plain", ""), "noatime,uarch"),
		flagged(dir("gone"), "schg"), flagged(file("gone/f", ""), "schg"), flagged(file("kept", ""), "sunlnk"),
		flagged(file("both", ""), "schg,uchg"))
	upper := layerOf(t, file("bin/su", "2"), file("d/g", "2"), file("d/.wh.f", ""), file(".wh.gone", ""),
		hardlink("kept2", "kept"), file("empty/x", ""))
	s := newStore(t, image.Limits{})
	root := t.TempDir()
	dropFlags(t, root)
	if err := Image(ctx, s, putLayers(t, s, "flags", base, upper), root, nil); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"empty": sfImmutable, "empty/x": 0, "bin/su": 0, "bin/su2": sfImmutable,
		"d": uchg, "both": sfImmutable | uchg,
		"plain": 0, "kept": sfNounlink, "kept2": sfNounlink} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, name), &st); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := int(st.Flags) & (forbidding | ufNodump); got != want {
			t.Errorf("%s has the flags %#x, want %#x", name, got, want)
		}
	}
	for _, name := range []string{"gone", "d/f"} {
		if _, err := os.Lstat(filepath.Join(root, name)); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}
