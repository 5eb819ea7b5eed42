package task

import (
	"maps"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
)

// What an image says of its volumes holds for those of the job and for those that the orchestrator's configuration of
// this host has, by the image's name for it or by its path.
func TestVolumesOfTheImageAreGiven(t *testing.T) {
	h := &fakeHost{t: t, dir: t.TempDir()}
	m, img := h.manager(), *fakeImage
	manifest := *fakeImage.Manifest
	manifest.Volumes = []image.Volume{{Name: "data", Path: "/data", Required: true, Description: "streams"},
		{Name: "site", Path: "/site", ReadOnly: true}}
	img.Manifest = &manifest
	dir := t.TempDir()
	at := func(target string) []client.Mount { return []client.Mount{{Source: dir, Target: target}} }
	for what, c := range map[string]struct {
		volumes, dirs []client.Mount
		readOnly      map[string]bool // nil: refused
	}{
		"nothing":                 {},
		"another path":            {dirs: at("/other")},
		"the job's":               {volumes: at("/data"), readOnly: map[string]bool{"/data": false}},
		"the job's by name":       {volumes: []client.Mount{{Source: dir, Name: "data"}}, readOnly: map[string]bool{"/data": false}},
		"the host's":              {dirs: at("/data"), readOnly: map[string]bool{"/data": false}},
		"the host's, differently": {dirs: at("/data/"), readOnly: map[string]bool{"/data/": false}},
		"one to be read, the host's": {dirs: append(at("/data"), at("/site")...),
			readOnly: map[string]bool{"/data": false, "/site": true}},
		"one to be read, the job's": {volumes: append(at("/data"), at("/site/")...),
			readOnly: map[string]bool{"/data": false, "/site/": true}},
	} {
		p, err := m.makePlan(client.TaskSpec{ID: "one", Image: "prog", Owner: "nomad", Volumes: c.volumes, Dirs: c.dirs}, &img)
		if c.readOnly == nil {
			if err == nil || !strings.Contains(err.Error(), "requires the volume data at /data: streams") {
				t.Errorf("%s: %v", what, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		got := map[string]bool{}
		for _, m := range append(p.mounts, p.dirs...) {
			got[m.Target] = m.ReadOnly
		}
		if !maps.Equal(got, c.readOnly) {
			t.Errorf("%s: read-only are %v, want %v", what, got, c.readOnly)
		}
		if err := p.close(); err != nil {
			t.Error(err)
		}
	}
}
