package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/freejail/freejail/internal/aside"
)

// A list of rulesets that a crash of the host cut off is no news: the rulesets went
// with it. One that was cut off otherwise is set aside.
func TestRulesetsOfAnotherBoot(t *testing.T) {
	for _, restarted := range []bool{true, false} {
		path, told := filepath.Join(t.TempDir(), "rulesets.json"), 0
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s := rulesetStore{path, restarted, func(*aside.Moved, string) { told++ }}
		sets, err := s.Load()
		if err != nil || sets != nil {
			t.Errorf("restarted %v: %v %v", restarted, sets, err)
		}
		if (told == 0) != restarted {
			t.Errorf("restarted %v: it is told %d times", restarted, told)
		}
		if left, err := aside.In(filepath.Dir(path)); err != nil || (len(left) == 0) != restarted {
			t.Errorf("restarted %v: %v is set aside, %v", restarted, left, err)
		}
	}
}
