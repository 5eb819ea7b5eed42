package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the daemon would not start with is refused by the check, too.
func TestCheck(t *testing.T) {
	for text, want := range map[string]string{
		``:                             "",
		`storage { driver = "auto" }`:  "",
		`storage { driver = "btrfs" }`: `driver "btrfs" is not supported on this system (supported: auto, `,
	} {
		file := filepath.Join(t.TempDir(), "freejail.hcl")
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Check(file)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
