package host

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// Every part of the file that is not read anew waits when it was changed, added or removed, and none else.
func TestWaiting(t *testing.T) {
	parse := func(text string) Config {
		t.Helper()
		c, err := parseConfig("freejail.hcl", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	parts := map[string][2]string{
		"state_dir":       {`state_dir = "/a"`, `state_dir = "/b"`},
		"socket":          {`socket = "/a"`, `socket = "/b"`},
		"socket_group":    {`socket_group = "0"`, ""},
		"log_level":       {`log_level = "debug"`, `log_level = "info"`},
		"runc":            {`runc = "/a"`, ""},
		"storage":         {`storage { driver = "union" }`, `storage { driver = "zfs" }`},
		"devfs":           {`devfs { first = 2000, last = 3000 }`, ""},
		"jail":            {`jail { securelevel = 1 }`, `jail { securelevel = 2 }`},
		"consul":          {`consul { address = "127.0.0.1:8500" }`, ""},
		"limits":          {`limits { disk_max = "1GiB" }`, `limits { disk_max = "2GiB" }`},
		"gc":              {`gc { older = "2h" }`, ""},
		"metrics":         {`metrics { listen = "127.0.0.1:1" }`, "metrics {\n listen = \"127.0.0.1:1\"\n token_file = \"/t\"\n}"},
		"tracing":         {`tracing { endpoint = "http://127.0.0.1:4318" }`, ""},
		"nfs":             {`nfs { lost = "5m" }`, ""},
		"network web":     {"network \"web\" {\n mode = \"nat\"\n subnet4 = \"10.1.0.0/24\"\n}", ""},
		"default_network": {`default_network = "none"`, ""},
	}
	for name, p := range parts {
		for _, is := range [][2]string{p, {p[1], p[0]}, {"", p[0]}} {
			before := parse(one(is[0]))
			before.StateDir, before.Socket = "/flag", "/flag" // which a command line says
			if got := WaitingIn(before, parse(one(is[1]))).Names(); !slices.Equal(got, []string{name}) {
				t.Errorf("%q to %q: %q", is[0], is[1], got)
			}
		}
		if got := WaitingIn(parse(one(p[0])), parse("\n\n"+one(p[0]))).Names(); len(got) > 0 {
			t.Errorf("%q is as it was: %q", p[0], got)
		}
	}
	followed := []string{"Path", "Networks", "DefaultNetwork", "DefaultRegistry", "Registries", "Signers", "Approvers", "Mirror",
		"written"}
	for f := range reflect.TypeFor[Config]().Fields() {
		name := map[string]string{"Securelevel": "jail"}[f.Name]
		if name == "" {
			name = strings.ReplaceAll(strings.ToLower(f.Name), "_", "")
		}
		known := slices.Contains(followed, f.Name)
		for part := range parts {
			known = known || strings.ReplaceAll(part, "_", "") == name
		}
		if !known {
			t.Errorf("%s of Config neither waits nor is followed", f.Name)
		}
	}
}

// one is a block with a line for each of its settings.
func one(text string) string {
	return strings.NewReplacer(" { ", " {\n", " }", "\n}", ", ", "\n").Replace(text) + "\n"
}
