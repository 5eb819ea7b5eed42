package unpack

import (
	"fmt"
	"strings"
	"testing"
)

// maze has links through links, each over many names, that end where they began.
func maze(n int) (items []item, end string) {
	items = []item{dir("d"), symlink("l0", ".")}
	for i := 1; i <= n; i++ {
		items = append(items, symlink(fmt.Sprintf("l%d", i), strings.Repeat("d/../", 40)+fmt.Sprintf("l%d", i-1)))
	}
	return items, fmt.Sprintf("l%d", n)
}

// A few hundred entries cannot take the time of millions.
func TestMazes(t *testing.T) {
	const entries = 500
	links, end := maze(20)
	through := append([]item{}, links...)
	for i := range entries {
		through = append(through, file(fmt.Sprintf("%s/f%d", end, i), "x"))
	}
	hard := append(append([]item{}, links...), file("f", "x"))
	for i := range entries {
		hard = append(hard, hardlink(fmt.Sprintf("h%d", i), end+"/f"))
	}
	spared := []item{dir("d")}
	for i := range entries {
		spared = append(spared, file(fmt.Sprintf("d/f%d", i), "x"))
	}
	for range entries {
		spared = append(spared, file("d/.wh..wh..opq", ""))
	}
	hidden := append([]item{}, links...)
	for i := range entries {
		hidden = append(hidden, file(fmt.Sprintf("%s/.wh.f%d", end, i), ""))
	}
	for name, items := range map[string][]item{"files": through, "hard links": hard, "opaque again and again": spared,
		"whiteouts": hidden} {
		_, err := unpackLayers(t, layerOf(t, items...))
		if err == nil {
			t.Errorf("%s: it is unpacked", name)
			continue
		}
		wantError(t, err, "steps")
	}
}

// At the default of a million entries a layer's paths take seconds.
func TestStepsOfManyEntries(t *testing.T) {
	for entries, want := range map[int64]int64{0: 20_000, 1000: 52_000, 100_000: 3_220_000, 1_000_000: 10_420_000} {
		tr := &tree{budget: &budget{entries: entries}}
		if err := tr.step(int(want)); err != nil {
			t.Errorf("%d entries: %v", entries, err)
		}
		wantError(t, tr.step(1), fmt.Sprintf("more than %d steps", want))
	}
}

// What images have of links and of depth is unpacked, in any order.
func TestLinksOfImagesAreFollowed(t *testing.T) {
	items := []item{dir("usr/lib"), symlink("lib", "usr/lib"), symlink("lib64", "lib")}
	deep := strings.TrimSuffix(strings.Repeat("d/", 12), "/")
	for i := range 1000 {
		items = append(items, file(fmt.Sprintf("lib64/f%d", i), ""), file(fmt.Sprintf("usr/%s/f%d", deep, i), ""))
	}
	if _, err := unpackLayers(t, layerOf(t, items...)); err != nil {
		t.Error(err)
	}
}
