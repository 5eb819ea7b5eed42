package build

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// This host's kernel is one that is asked itself.
func TestZFSDevice(t *testing.T) {
	p, err := openPool(t.Context(), testPool(t), unix.LOCK_SH)
	check(t, err)
	defer p.close()
	z, err := openZFSDevice(p.name, p.lock)
	check(t, err)
	check(t, z.snapshot(p.name+"@one"))
	if err := z.snapshot(p.name + "@one"); err != unix.EEXIST {
		t.Error(err)
	}
	check(t, z.Close())
}

// zfs(8) is asked where the kernel is another, and does not tell of such a file.
func TestZFSFileWithoutAPathByZFSDiff(t *testing.T) {
	was := zfsDeviceFile
	t.Cleanup(func() { zfsDeviceFile = was })
	zfsDeviceFile = filepath.Join(t.TempDir(), "none")
	said := fileWithoutAPath(t)
	if want := "zfs(8) is asked"; !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, want) && strings.Contains(s, zfsDeviceFile) }) {
		t.Errorf("nothing is said of it: %q", said)
	}
}

// The places of the fields are those that the kernel's header leads to.
func TestZFSCommand(t *testing.T) {
	var c zfsCmd
	for name, is := range map[string][2]uintptr{
		"zc_nvlist_src": {unsafe.Offsetof(c.source), 1024},
		"zc_value":      {unsafe.Offsetof(c.value), 1072},
		"zc_cookie":     {unsafe.Offsetof(c.cookie), 3400},
		"zc_obj":        {unsafe.Offsetof(c.object), 3440},
		"zc_stat":       {unsafe.Offsetof(c.stat), 4480},
	} {
		if is[0] != is[1] {
			t.Errorf("%s is at %d, not %d", name, is[0], is[1])
		}
	}
}
