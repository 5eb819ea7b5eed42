package image

import (
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestChainID(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	for _, c := range []struct {
		diffs []digest.Digest
		want  digest.Digest
	}{{[]digest.Digest{a}, a}, {[]digest.Digest{a, b}, digest.FromString(a.String() + " " + b.String())},
		{[]digest.Digest{a, b, a}, digest.FromString(digest.FromString(a.String()+" "+b.String()).String() + " " +
			a.String())}} {
		if got, err := chainIDs(c.diffs); err != nil || got[len(got)-1] != c.want {
			t.Errorf("%v gives %s, %v; want %s", c.diffs, got, err, c.want)
		}
	}
}
