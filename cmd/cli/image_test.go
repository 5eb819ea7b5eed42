package cli

import (
	"os"
	"path/filepath"
	"testing"
)

// The daemon is in another directory than who names an image by a path.
func TestImageArgument(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	check(t, os.Mkdir("sub", 0o700))
	check(t, os.WriteFile("sub/web.tar", nil, 0o600))
	for arg, want := range map[string]string{"./web.tar": filepath.Join(dir, "web.tar"),
		"sub/web.tar": filepath.Join(dir, "sub/web.tar"), "web": "web", "r.example/team/web:1": "r.example/team/web:1",
		"/srv/web.tar": "/srv/web.tar"} {
		if got := imageRef(arg); got != want {
			t.Errorf("%s: %q, want %q", arg, got, want)
		}
	}
}
