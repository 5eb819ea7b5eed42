package task

import (
	"strings"
	"testing"

	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/policy"
)

// What images of other tools say of ports and privileges is judged, and a first job of
// one that only exposes ports needs no permit.
func TestImagesOfOtherTools(t *testing.T) {
	exposes, _ := image.Exposed(map[string]struct{}{"80/tcp": {}, "53/udp": {}})
	for name, c := range map[string]struct {
		policy string
		labels map[string]string
		want   string // refused or denied; empty: nothing
	}{
		"exposed ports":                 {"", nil, ""},
		"exposed ports that are denied": {`deny { ports = ["1-100/tcp"] }`, nil, "port:80/tcp"},
		"a label":                       {"", map[string]string{"org.freebsd.jail.allow.mlock": "true"}, "allow:mlock"},
		"a label that is permitted": {`permit { allow = ["mlock"] }`,
			map[string]string{"org.freebsd.jail.allow.mlock": "true"}, ""},
		"IPC by a label": {"", map[string]string{"org.freebsd.jail.sysvshm": "new"}, "sysvipc:shm=new"},
	} {
		p, err := policy.Parse("test", []byte(c.policy), policy.DevicesBy(devfs.ParseRule, devfs.NewIndex))
		if err != nil {
			t.Fatal(err)
		}
		img := &image.Image{Name: "img", Manifest: &image.Manifest{Ports: exposes}}
		img.Config.Config.Labels = c.labels
		reqs, err := Requests(img)
		if err != nil {
			t.Fatal(err)
		}
		var refused []string
		for _, r := range p.Decide(policy.Subject{Image: "img"}, reqs, nil).Results {
			if !r.Allowed {
				refused = append(refused, r.Request.Key())
			}
		}
		if got := strings.Join(refused, " "); got != c.want {
			t.Errorf("%s: refused is %q, want %q", name, got, c.want)
		}
	}
}
