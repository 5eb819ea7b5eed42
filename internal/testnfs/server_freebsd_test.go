package testnfs

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/freejail/freejail/internal/mount"
)

// A server goes at once, even while its jail lasts: here for a process that
// nobody has waited for, elsewhere for connections in TIME_WAIT.
func TestServerThatDiesLate(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a jail needs root")
	}
	dir := t.TempDir()
	s, err := Start(dir)
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.ForceUnder(dir); err != nil {
			t.Error(err)
		}
	})
	zombie := exec.Command("jexec", s.jail, "true")
	out, err := zombie.StdoutPipe()
	if err == nil {
		err = zombie.Start()
	}
	if err == nil {
		_, err = io.ReadAll(out) // until its end
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, end := range []string{s.cable, s.theirs} {
		if out, err := exec.Command("ifconfig", end).CombinedOutput(); err == nil {
			t.Errorf("%s is still there: %s", end, out)
		}
	}
	_ = zombie.Wait() // it may have been killed with its jail
}
