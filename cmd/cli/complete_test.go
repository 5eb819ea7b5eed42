package cli

import (
	"strings"
	"testing"
)

const anyNetwork = "network \"web\" {\n  mode = \"nat\"\n  subnet4 = \"10.203.0.0/24\"\n}\n"

// TestCompletion asks as a shell does: names of what there is, and what else the word can be.
func TestCompletion(t *testing.T) {
	h := newHost(t, anyNetwork)
	h.gives(0, nil, "run", "-d", "--name", "one", "prog", "wait")
	defer h.gives(0, nil, "rm", "-f", "one")
	for line, want := range map[string]string{
		"stop ":              "one\trunning prog\n:4",
		"logs ":              "one\trunning prog\n:4",
		"logs one ":          ":0",
		"cp ":                "one:\tprog\n:2",
		"cp file ":           "one:\tprog\n:2",
		"stop one ":          "one\trunning prog\n:4",
		"exec ":              "one\trunning prog\n:4",
		"port ":              "one\trunning prog\n:4",
		"images rm ":         "prog\tsha256:",
		"run ":               "prog\tsha256:",
		"run --network ":     "web\tnat\n:4",
		"policy check ":      "prog\tsha256:",
		"run --pull=":        "always\nmissing\nnever\n:4",
		"networks ":          "web\tnat\n:4",
		"policy sets ":       ":",
		"networks --socket ": ":",
	} {
		args := append([]string{"__complete"}, strings.Split(line, " ")...)
		if r := h.freejail(args...); r.code != 0 || !strings.Contains(r.out, want) {
			t.Errorf("%q: %d %q %q", line, r.code, r.out, r.errout)
		}
	}
	h.end()
	defer h.begin()
	if r := h.freejail("__complete", "stop", ""); r.code != 0 || r.out != ":4\n" {
		t.Errorf("without a daemon: %+v", r)
	}
}
