package near

import "testing"

func TestHint(t *testing.T) {
	known := []string{"raw_sockets", "mlock", "chflags", "amd64", "arm64"}
	for name, want := range map[string]string{"raw_sokets": " (did you mean raw_sockets?)",
		"RAW_SOCKETS": " (did you mean raw_sockets?)", "amd65": " (did you mean amd64?)",
		"mlok": " (did you mean mlock?)", "something": "", "": "", "x": ""} {
		if got := Hint(name, known); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
