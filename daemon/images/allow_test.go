package images

import (
	"testing"
	"time"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/registry"
)

// A registry is asked again whether it gives an image to who once had it.
func TestAllowancesAge(t *testing.T) {
	now := time.Now()
	a := allowances{now: func() time.Time { return now }}
	img, cred := &image.Image{Name: "registry.example/private"}, &registry.Credential{Username: "fleet", Password: "x"}
	a.add(img, cred)
	for _, c := range []struct {
		later time.Duration
		want  bool
	}{{0, true}, {59 * time.Minute, true}, {2 * time.Minute, false}} {
		if now = now.Add(c.later); a.has(img, cred) != c.want {
			t.Errorf("%s later: %v", c.later, !c.want)
		}
	}
	if a.add(img, cred); !a.has(img, cred) {
		t.Error("what is given anew does not count")
	}
}
