package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTracingInTheConfiguration(t *testing.T) {
	for text, want := range map[string][2]string{ // what it is, or its mistake
		`endpoint = "http://127.0.0.1:4318"`:         {"http://127.0.0.1:4318/v1/traces"},
		`endpoint = "http://localhost:4318/"`:        {"http://localhost:4318/v1/traces"},
		`endpoint = "https://collect.example/otlp"`:  {"https://collect.example/otlp"},
		`endpoint = "http://collect.example"`:        {"", "use https"},
		`endpoint = "127.0.0.1:4318"`:                {"", "is not a URL of a collector"},
		`endpoint = "grpc://127.0.0.1:4317"`:         {"", "is not a URL of a collector"},
		`endpoint = "https://user:pass@example.com"`: {"", "is not a URL of a collector"},
		``: {"", `"endpoint"`},
	} {
		file := filepath.Join(t.TempDir(), "freejail.hcl")
		if err := os.WriteFile(file, fmt.Appendf(nil, "\ntracing {\n%s\n}\n", text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := LoadConfig(file)
		if err == nil && (want[1] != "" || c.Tracing != want[0]) {
			t.Errorf("%s: %q", text, c.Tracing)
		}
		if err != nil && (want[1] == "" || !strings.Contains(err.Error(), want[1]) ||
			!strings.Contains(err.Error(), "freejail.hcl:2")) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
