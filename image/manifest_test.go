package image

import (
	"encoding/json"
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
	if m.Ports[0].Service.Check.Interval.Std().Seconds() != 10 || *m.Parameters[0].Default != "hello" || !m.Requires.VNET || m.Stop.Signal != "SIGINT" {
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

func TestManifestMistakesNameTheirField(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"nothing":             {``, "ends too early"},
		"cut off":             {`{"schemaVersion": 1, "ports": [`, "ends too early"},
		"no JSON":             {`{schemaVersion: 1}`, "invalid character"},
		"more after it":       {`{"schemaVersion": 1} {}`, "after its end"},
		"an array":            {`[]`, "want an object, got an array"},
		"null":                {`null`, "want an object, got null"},
		"no version":          {`{}`, "schemaVersion: 0"},
		"version 2":           {`{"schemaVersion": 2}`, "schemaVersion: 2"},
		"unknown field":       {`{"schemaVersion": 1, "privileged": true}`, "privileged: this field is not known"},
		"other case":          {`{"schemaVersion": 1, "Ports": []}`, "Ports: this field is not known"},
		"unknown deeper":      {`{"schemaVersion": 1, "requires": {"mounts": [{"type": "tmpfs", "target": "/a"}, {"typ": {"x": [1]}}]}}`, "requires.mounts[1].typ: this field is not known: there are options, target, type"},
		"field twice":         {`{"schemaVersion": 1, "wait": "main", "wait": "all"}`, "wait: it is there twice"},
		"key of a map twice":  {`{"schemaVersion": 1, "requires": {"sysctl": {"a.b": "1", "a.b": "2"}}}`, "requires.sysctl.a.b: it is there twice"},
		"text for a number":   {`{"schemaVersion": 1, "ports": [{"name": "a", "port": 1}, {"name": "b", "port": "80"}]}`, "ports[1].port: want a whole number, got a string"},
		"a fraction":          {`{"schemaVersion": 1, "ports": [{"name": "a", "port": 1.5}]}`, "ports[0].port: 1.5 is no whole number"},
		"huge":                {`{"schemaVersion": 1, "ports": [{"name": "a", "port": 1e99}]}`, "ports[0].port"},
		"number for text":     {`{"schemaVersion": 1, "name": 7}`, "name: want a string, got the number 7"},
		"object for a list":   {`{"schemaVersion": 1, "writable": {"a": {"b": []}}}`, "writable: want an array, got an object"},
		"text for a bool":     {`{"schemaVersion": 1, "requires": {"vnet": "yes"}}`, "requires.vnet: want true or false, got a string"},
		"null inside":         {`{"schemaVersion": 1, "requires": {"allow": [null]}}`, "requires.allow[0]: want a string, got null"},
		"no text in a map":    {`{"schemaVersion": 1, "requires": {"jail": {"securelevel": 2}}}`, "requires.jail.securelevel: want a string, got the number 2"},
		"time without unit":   {`{"schemaVersion": 1, "stop": {"timeout": "10"}}`, "stop.timeout: "},
		"time as a number":    {`{"schemaVersion": 1, "stop": {"timeout": 10}}`, "stop.timeout: want a string"},
		"negative time":       {`{"schemaVersion": 1, "stop": {"timeout": "-1s"}}`, "stop.timeout: the time -1s is negative"},
		"unknown signal":      {`{"schemaVersion": 1, "stop": {"signal": "SIGFOO"}}`, `stop.signal: "SIGFOO"`},
		"bad wait":            {`{"schemaVersion": 1, "wait": "some"}`, `wait: "some"`},
		"escape sequence":     {`{"schemaVersion": 1, "usage": "a\u001b[2J"}`, "usage: it has control characters"},
		"bad parameter":       {`{"schemaVersion": 1, "parameters": [{"name": "A-B"}]}`, `parameters[0].name: "A-B"`},
		"parameter twice":     {`{"schemaVersion": 1, "parameters": [{"name": "A"}, {"name": "A"}]}`, `parameters[1].name: "A" is there twice`},
		"reserved parameter":  {`{"schemaVersion": 1, "parameters": [{"name": "NOMAD_TASK_DIR"}]}`, "parameters[0].name"},
		"bad pattern":         {`{"schemaVersion": 1, "parameters": [{"name": "A", "pattern": "("}]}`, "parameters[0].pattern: "},
		"default against it":  {`{"schemaVersion": 1, "parameters": [{"name": "A", "pattern": "^[0-9]+$", "default": "x"}]}`, "parameters[0].default: "},
		"required default":    {`{"schemaVersion": 1, "parameters": [{"name": "A", "required": true, "default": ""}]}`, "parameters[0].default: "},
		"port 0":              {`{"schemaVersion": 1, "ports": [{"name": "a", "port": 0}]}`, "ports[0].port: 0"},
		"port 65536":          {`{"schemaVersion": 1, "ports": [{"name": "a", "port": 65536}]}`, "ports[0].port: 65536"},
		"port name twice":     {`{"schemaVersion": 1, "ports": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]}`, `ports[1].name: "a" is there twice`},
		"port number twice":   {`{"schemaVersion": 1, "ports": [{"name": "a", "port": 1}, {"name": "b", "port": 1, "protocol": "tcp"}]}`, "ports[1].port: 1/tcp is there twice"},
		"bad protocol":        {`{"schemaVersion": 1, "ports": [{"name": "a", "port": 1, "protocol": "sctp"}]}`, "ports[0].protocol"},
		"bad check":           {`{"schemaVersion": 1, "ports": [{"name": "a", "port": 1, "service": {"check": {"type": "script"}}}]}`, "ports[0].service.check.type"},
		"check path with tcp": {`{"schemaVersion": 1, "ports": [{"name": "a", "port": 1, "service": {"check": {"type": "tcp", "path": "/"}}}]}`, "ports[0].service.check.path"},
		"udp check":           {`{"schemaVersion": 1, "ports": [{"name": "a", "port": 1, "protocol": "udp", "service": {"check": {"type": "tcp"}}}]}`, "ports[0].service.check: "},
		"bad sysvipc":         {`{"schemaVersion": 1, "requires": {"sysvipc": {"sem": "yes"}}}`, "requires.sysvipc.sem"},
		"allow. in front":     {`{"schemaVersion": 1, "requires": {"allow": ["allow.raw_sockets"]}}`, "requires.allow[0]"},
		"mount of the host":   {`{"schemaVersion": 1, "requires": {"mounts": [{"type": "nullfs", "target": "/mnt"}]}}`, "requires.mounts[0].type"},
		"mount upwards":       {`{"schemaVersion": 1, "requires": {"mounts": [{"type": "tmpfs", "target": "/a/../.."}]}}`, "requires.mounts[0].target"},
		"mount on the root":   {`{"schemaVersion": 1, "requires": {"mounts": [{"type": "tmpfs", "target": "/"}]}}`, "requires.mounts[0].target"},
		"empty devfs rule":    {`{"schemaVersion": 1, "requires": {"devfs": [" "]}}`, "requires.devfs[0]"},
		"two-line devfs rule": {`{"schemaVersion": 1, "requires": {"devfs": ["path a unhide\u0000"]}}`, "requires.devfs[0]"},
		"bad version":         {`{"schemaVersion": 1, "requires": {"osVersion": {"min": "fourteen"}}}`, "requires.osVersion.min"},
		"relative writable":   {`{"schemaVersion": 1, "writable": ["var"]}`, "writable[0]"},
		"writable twice":      {`{"schemaVersion": 1, "writable": ["/var", "/var"]}`, "writable[1]"},
		"volume without name": {`{"schemaVersion": 1, "volumes": [{"path": "/data"}]}`, "volumes[0].name"},
		"volume path twice":   {`{"schemaVersion": 1, "volumes": [{"name": "a", "path": "/d"}, {"name": "b", "path": "/d"}]}`, "volumes[1].path"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseManifest([]byte(c.text))
			wantError(t, err, "manifest: ", c.want)
		})
	}
}

func TestManifestTellsAllMistakesAtOnce(t *testing.T) {
	_, err := ParseManifest([]byte(`{"schemaVersion": 1, "wait": "x", "ports": [{"name": "A", "port": 0}]}`))
	wantError(t, err, "wait: ", "ports[0].name: ", "ports[0].port: ")
	_, err = ParseManifest([]byte(`{"schemaVersion": "1", "foo": 1, "ports": [{"bar": []}]}`))
	wantError(t, err, "schemaVersion: ", "foo: ", "ports[0].bar: ")
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
