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
		if _, err := ParseManifest([]byte(text)); err == nil || !strings.Contains(err.Error(), "patterns are too large") {
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
