package image

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// A short pattern can become a program of many megabytes, and there can be many.
func TestPatternsAreBounded(t *testing.T) {
	one := func(pattern string, n int) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf(`{"name":"P%d","pattern":%q}`, i, pattern))
		}
		return `{"schemaVersion":1,"parameters":[` + strings.Join(list, ",") + `]}`
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for name, text := range map[string]string{
		"repetitions": one("("+strings.Repeat("x", 200)+"){1000}", 1), "many": one("x{900}", 120),
		"classes": one(`(\pL{100}){10}`, 1), "long": one(strings.Repeat("x", 60000), 1),
	} {
		if _, err := ParseManifest([]byte(text)); err == nil ||
			!strings.Contains(err.Error(), "patterns are too large") {
			t.Errorf("%s: %v", name, err)
		}
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20 {
		t.Errorf("they took %d bytes of memory", used)
	}
	for _, text := range []string{one("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", 20), one("", 100)} {
		if _, err := ParseManifest([]byte(text)); err != nil {
			t.Error(err)
		}
	}
}

// A match cannot be ended, so what it can take is refused before it begins.
func TestMatchingIsBounded(t *testing.T) {
	within, long := strings.Repeat("x", 450), strings.Repeat("x", 30_000)
	const pattern = "^(x{0,500})$"
	parameters := func(n int, value string) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf(`{"name":"P%d","pattern":"^(x{0,500})$","default":%q}`, i, value))
		}
		return list
	}
	for name, list := range map[string][]string{
		"one":     {fmt.Sprintf(`{"name":"P","pattern":%q,"default":%q}`, pattern, long)},
		"the sum": parameters(10, strings.Repeat("x", 4000)),
	} {
		_, err := ParseManifest([]byte(`{"schemaVersion":1,"parameters":[` + strings.Join(list, ",") + `]}`))
		if err == nil || !strings.Contains(err.Error(), "too long for its pattern") {
			t.Errorf("%s: %.200v", name, err)
		}
	}
	if _, err := ParseManifest([]byte(`{"schemaVersion":1,"parameters":[` + strings.Join(parameters(10, within), ",") +
		`]}`)); err != nil {
		t.Error(err)
	}
	var p Patterns
	if ok, err := p.Match(pattern, &within); !ok || err != nil {
		t.Error(ok, err)
	}
	if _, err := p.Match(pattern, &long); err == nil {
		t.Error("the value of a job may be as long as it likes")
	}
}

// Each writable path is looked for in the root at a start.
func TestWritablePathsAreBounded(t *testing.T) {
	list := func(n int) string {
		var paths []string
		for i := range n {
			paths = append(paths, fmt.Sprintf("%q", fmt.Sprintf("/w%d", i)))
		}
		return `{"schemaVersion":1,"writable":[` + strings.Join(paths, ",") + `]}`
	}
	if _, err := ParseManifest([]byte(list(129))); err == nil || !strings.Contains(err.Error(),
		"at most 128 are allowed") {
		t.Error(err)
	}
	if _, err := ParseManifest([]byte(list(128))); err != nil {
		t.Error(err)
	}
	long := strings.ReplaceAll(list(10), `"/w`, `"`+strings.Repeat("/a", 200)+"/w")
	if _, err := ParseManifest([]byte(long)); err == nil || !strings.Contains(err.Error(), "of 2010 directories") {
		t.Error(err)
	}
}
