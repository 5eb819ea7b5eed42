package client

import "testing"

func TestParseDevice(t *testing.T) {
	for text, want := range map[string]Device{
		"/dev/bpf":             {"/dev/bpf", "rwm"},
		"/dev/bpf:rw":          {"/dev/bpf", "rw"},
		"/dev/bpf:/dev/bpf":    {"/dev/bpf", "rwm"},
		"/dev/bpf:/dev/bpf:rw": {"/dev/bpf", "rw"},
	} {
		if got, err := ParseDevice(text); err != nil || got != want {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"/dev/bpf:/dev/bpf0", "/dev/bpf:/dev/other:rw", "/dev/bpf:rw:m"} {
		if got, err := ParseDevice(text); err == nil {
			t.Errorf("%s: %v", text, got)
		}
	}
}
