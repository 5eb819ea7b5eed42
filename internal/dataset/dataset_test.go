package dataset

import (
	"os/exec"
	"strings"
	"testing"
)

// Who cannot ask does not take that for an answer: what is there would be
// destroyed as half made.
func TestHasOfWhatCannotBeAsked(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if has, err := has("tank/freejail"); err == nil {
		t.Errorf("without zfs(8): %v", has)
	}
}

func TestHas(t *testing.T) {
	out, err := exec.Command("zpool", "list", "-H", "-o", "name").Output()
	pool, _, _ := strings.Cut(string(out), "\n")
	if err != nil || pool == "" {
		t.Skip("no pool on this host")
	}
	for name, want := range map[string]bool{pool: true, pool + "/freejail-none": false, pool +
		"@freejail-none": false} {
		if has, err := Has(name); err != nil || has != want {
			t.Errorf("%s: %v %v, want %v", name, has, err, want)
		}
	}
}
