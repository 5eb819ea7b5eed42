package cli

import (
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

func TestTmpfsHasOptions(t *testing.T) {
	s, err := runFlags{tmpfs: []string{"/tmp", "/run:size=64m,mode=1777"}}.spec([]string{"image"})
	want := []client.Mount{{Type: "tmpfs", Source: "tmpfs", Target: "/tmp"}, {Type: "tmpfs", Source: "tmpfs", Target: "/run", Options: "size=64m,mode=1777"}}
	if err != nil || len(s.Volumes) != 2 || s.Volumes[0] != want[0] || s.Volumes[1] != want[1] {
		t.Errorf("%+v %v", s.Volumes, err)
	}
}
