package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
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

// What a pull took from here and from where the rest came is told in a line each.
func TestTellPulled(t *testing.T) {
	for want, i := range map[string]client.ImageInfo{
		"": {Size: 8 << 20},
		"2MiB of 8MiB were reused from other layers of this host\n": {Size: 8 << 20, Reused: 2 << 20},
		"mirror a.example was passed over: no answer\n4MiB from b.example, 2MiB from r.example\n": {
			Sources: []client.ImageSource{{Host: "a.example", Mirror: true, PassedOver: "no answer"},
				{Host: "b.example", Mirror: true, Bytes: 4 << 20}, {Host: "r.example", Bytes: 2 << 20}}},
	} {
		var out strings.Builder
		a := newCommands("")
		a.Messages = &out
		a.tellPulled(&i)
		if out.String() != want {
			t.Errorf("got %q, want %q", out.String(), want)
		}
	}
}
