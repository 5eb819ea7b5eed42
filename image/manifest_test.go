package image

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
)

const fullManifest = `{
 "schemaVersion": 1, "name": "web", "summary": "A server", "usage": "# Web\n\nServes.\n",
 "parameters": [{"name": "GREETING", "description": "what it says", "default": "hello", "pattern": "^[a-z]+$"},
                {"name": "TOKEN", "description": "a secret", "required": true}],
 "ports": [{"name": "http", "port": 8080, "protocol": "tcp", "description": "the site",
            "service": {"name": "web", "tags": ["v1"], "check": {"type": "http", "path": "/health", "interval": "10s", "timeout": "2s"}}},
           {"name": "dns", "port": 8080, "protocol": "udp"}],
 "requires": {"devfs": ["path 'bpf*' unhide mode 660"], "sysvipc": {"shm": "new", "msg": "inherit"}, "allow": ["raw_sockets", "mount.tmpfs"],
              "jail": {"securelevel": "2"}, "sysctl": {"net.inet.tcp.msl": "1000"},
              "mounts": [{"type": "tmpfs", "target": "/tmp", "options": ["size=1m"]}], "vnet": true, "linux": false, "osVersion": {"min": "14.1"}},
 "writable": ["/var", "/tmp"], "volumes": [{"name": "data", "path": "/data", "required": true, "readOnly": true}],
 "stop": {"signal": "SIGINT", "timeout": "5s"}, "wait": "all"}`

func TestManifestRoundTrip(t *testing.T) {
	m, err := ParseManifest([]byte(fullManifest))
	if err != nil {
		t.Fatal(err)
	}
	if m.Ports[0].Service.Check.Interval.Std().Seconds() != 10 || *m.Parameters[0].Default != "hello" ||
		!m.Requires.VNET || m.Stop.Signal != "SIGINT" {
		t.Errorf("fields are lost: %+v", m)
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseManifest(b)
	if err != nil {
		t.Fatalf("what is written is not read: %v\n%s", err, b)
	}
	if !reflect.DeepEqual(m, again) {
		t.Errorf("read again it is %+v, was %+v", again, m)
	}
}

// manifests are cases that the JSON Schema is tested with as well.
func manifests(t *testing.T) (cases struct {
	Valid, Invalid []struct{ Name, Text, Error string }
}) {
	t.Helper()
	b, err := os.ReadFile("testdata/manifests.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

func TestManifestMistakesNameTheirField(t *testing.T) {
	cases := manifests(t)
	for _, c := range cases.Invalid {
		t.Run(c.Name, func(t *testing.T) {
			_, err := ParseManifest([]byte(c.Text))
			wantError(t, err, "manifest: ", c.Error)
		})
	}
	for _, c := range cases.Valid {
		t.Run(c.Name, func(t *testing.T) {
			if _, err := ParseManifest([]byte(c.Text)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestManifestTellsAllMistakesAtOnce(t *testing.T) {
	_, err := ParseManifest([]byte(`{"schemaVersion": 1, "wait": "x", "ports": [{"name": "A", "port": 0}]}`))
	wantError(t, err, "wait: ", "ports[0].name: ", "ports[0].port: ")
	_, err = ParseManifest([]byte(`{"schemaVersion": "1", "foo": 1, "ports": [{"bar": []}]}`))
	wantError(t, err, "schemaVersion: ", "foo: ", "ports[0].bar: ")
}

// What Consul and those who read it see of an image is what the image says.
func TestServicesAreSeenAsTheyAre(t *testing.T) {
	for _, bad := range []string{"a\nb", "a\tb", "v\u202e1", "\u200b", "a  b", "\u3164"} {
		for field, service := range map[string]*Service{"tags[0]": {Tags: []string{bad}},
			"check.path": {Check: &Check{Type: "http", Path: "/" + bad}}} {
			m := Manifest{SchemaVersion: 1, Ports: []Port{{Name: "http", Port: 80, Service: service}}}
			wantError(t, m.Validate(), "ports[0].service."+field)
		}
	}
}

func TestManifestSizeLimit(t *testing.T) {
	_, err := ParseManifest([]byte(`{"schemaVersion": 1, "usage": "` + strings.Repeat("x", maxManifest) + `"}`))
	wantError(t, err, "over the limit")
}

// Whatever is taken must be taken again as it is written, and be valid.
func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(fullManifest))
	f.Add([]byte(`{"schemaVersion": 1}`))
	f.Add([]byte(`{"schemaVersion": 1, "requires": {"jail": {"a": [1, {"b": null}]}}}`))
	f.Add([]byte(`{"schemaVersion": 1, "parameters": [{"name": "A", "default": "\ud800"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "manifest: ") {
				t.Errorf("the error does not say what is wrong: %v", err)
			}
			return
		}
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseManifest(out)
		if err != nil {
			t.Fatalf("%s becomes %s, which is refused: %v", b, out, err)
		}
		twice, err := json.Marshal(again)
		if err != nil || string(twice) != string(out) {
			t.Errorf("%s becomes %s, then %s (%v)", b, out, twice, err)
		}
	})
}
