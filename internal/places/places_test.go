package places

import (
	"strings"
	"testing"
)

// A user has half of the places, all users together not those of root, and what is given back can be taken again.
func TestShares(t *testing.T) {
	p := &Places{Most: 8}
	var releases []func()
	take := func(uid int, root bool, want string) {
		t.Helper()
		release, err := p.Take(uid, root)
		if err == nil {
			releases = append(releases, release)
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("uid %d: %v, want %q", uid, err, want)
		}
	}
	for range 4 {
		take(1001, false, "")
	}
	take(1001, false, "4 are under way of the same user")
	for range 3 {
		take(1002, false, "")
	}
	take(1003, false, "7 are under way, and the rest is kept for root")
	take(0, true, "")
	take(0, true, "8 are under way")
	take(1003, false, "8 are under way")
	for _, release := range releases {
		release()
		release() // does nothing
	}
	if p.root != 0 || len(p.users) != 0 {
		t.Errorf("places are not given back: %d, %v", p.root, p.users)
	}
	for range 8 {
		take(0, true, "")
	}
}
