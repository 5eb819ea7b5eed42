package jail

import (
	"path/filepath"
	"testing"

	"github.com/freejail/freejail/internal/mount"
)

// prepare has nothing to do: the test's program needs no device.
func prepare(testing.TB, string) {}

// leaveReaper gives orphans to init, as the end of a daemon does.
func leaveReaper(t *testing.T) {
	const release = 3 // PROC_REAP_RELEASE
	if err := procctl(release, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := procctl(procReapAcquire, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func isZombie(pid int) bool {
	k, err := process(pid)
	must(err)
	return k.zombie()
}

func removeBehindBack(m *Manager, name string) error {
	s, err := m.find("remove", name)
	if err != nil {
		return err
	}
	return jailRemove(s.jid)
}

// mountDev lets a jail see terminals.
func mountDev(t testing.TB, root string) {
	dev := filepath.Join(root, "dev")
	if err := mount.Do(mount.Mount{Type: "devfs", Target: dev}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.UnmountUnder(dev); err != nil {
			t.Error(err)
		}
	})
}
