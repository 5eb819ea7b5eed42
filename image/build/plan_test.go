package build

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/freejail/freejail/image"
)

const everyVerb = `ARG WHO=world
FROM scratch
NAME web
SUMMARY A web "server"
USAGE <<EOF
# Web

It costs $5.
EOF
ARG COUNT=2
COPY prog /bin/prog
ADD prog /bin/added
ENV GREETING="hello $WHO" N=${COUNT}
WORKDIR /srv
USER 80:81
ENTRYPOINT ["/bin/prog", "-x"]
CMD one 'two words'
LABEL a=b c="d e"
STOPSIGNAL SIGINT timeout=20s
VOLUME /data name=files required readonly description="what it serves"
VOLUME /a /b
PORT http 8080/tcp service=web-$COUNT tags=a,b check=http:/healthz interval=2s timeout=1s description="pages"
PORT dns 53/udp
PORT raw 99
PARAM COLOUR default="dark blue" pattern="^[a-z ]+$" description="of the pages"
PARAM TOKEN required
DEVFS path 'bpf*' unhide mode 660
DEVFS type disk hide
SYSVIPC shm=new msg=inherit
ALLOW raw_sockets allow.chflags
ALLOW raw_sockets
JAIL securelevel=2 enforce_statfs=1
SYSCTL net.inet.tcp.keepidle=60000
MOUNT tmpfs /tmp size=64m mode=1777
MOUNT procfs /proc
WRITABLE /var /tmp
OSVERSION 14.1
WAIT all
VNET
LINUX
OVERLAY prog
CP prog /bin/copied
RENDER /prog
LINE_IN_FILE 'a line' /etc/lines
CONFIG set securelevel=2
RDR tcp 9 53
TAGS one two
ARG+ WHO=them
RESTART
`

const everyManifest = `{
 "schemaVersion": 1,
 "name": "web",
 "summary": "A web server",
 "usage": "# Web\n\nIt costs $5.\n",
 "parameters": [
  {"name": "COLOUR", "description": "of the pages", "default": "dark blue", "pattern": "^[a-z ]+$"},
  {"name": "TOKEN", "required": true}
 ],
 "ports": [
  {"name": "http", "port": 8080, "protocol": "tcp", "description": "pages", "service": {"name": "web-2", "tags": ["a", "b"], "check": {"type": "http", "path": "/healthz", "interval": "2s", "timeout": "1s"}}},
  {"name": "dns", "port": 53, "protocol": "udp"},
  {"name": "raw", "port": 99, "protocol": "tcp"},
  {"name": "tcp-53", "port": 53, "protocol": "tcp"}
 ],
 "requires": {
  "devfs": ["path 'bpf*' unhide mode 660", "type disk hide"],
  "sysvipc": {"shm": "new", "msg": "inherit"},
  "allow": ["raw_sockets", "chflags"],
  "jail": {"enforce_statfs": "1", "securelevel": "2"},
  "sysctl": {"net.inet.tcp.keepidle": "60000"},
  "mounts": [{"type": "tmpfs", "target": "/tmp", "options": ["size=64m", "mode=1777"]}, {"type": "procfs", "target": "/proc"}],
  "vnet": true,
  "linux": true,
  "osVersion": {"min": "14.1"}
 },
 "writable": ["/var", "/tmp"],
 "volumes": [
  {"name": "files", "path": "/data", "description": "what it serves", "required": true, "readOnly": true},
  {"name": "a", "path": "/a"},
  {"name": "b", "path": "/b"}
 ],
 "stop": {"signal": "SIGINT", "timeout": "20s"},
 "wait": "all"
}`

const everyConfig = `{
 "User": "80:81",
 "ExposedPorts": {"53/tcp": {}, "53/udp": {}, "8080/tcp": {}, "99/tcp": {}},
 "Env": ["GREETING=hello world", "N=2"],
 "Entrypoint": ["/bin/prog", "-x"],
 "Cmd": ["one", "two words"],
 "Volumes": {"/a": {}, "/b": {}, "/data": {}},
 "WorkingDir": "/srv",
 "Labels": {"a": "b", "c": "d e", "tags": "one,two"},
 "StopSignal": "SIGINT"
}`

// plain makes texts of JSON comparable.
func plain(t *testing.T, v any) string {
	t.Helper()
	b, ok := v.(string)
	if !ok {
		j, err := json.Marshal(v)
		check(t, err)
		b = string(j)
	}
	var x any
	check(t, json.Unmarshal([]byte(b), &x))
	out, err := json.MarshalIndent(x, "", " ")
	check(t, err)
	return string(out)
}

func TestEveryVerb(t *testing.T) {
	for name := range verbs { // the text above is whole
		if !slices.Contains([]string{"RUN", "PKG", "SYSRC", "SERVICE", "INCLUDE", "TEMPLATE", "LIMITS",
			"EXPOSE", "SHELL", "MAINTAINER", "HEALTHCHECK", "ONBUILD"}, name) && // see TestContainerfiles
			!strings.Contains("\n"+everyVerb, "\n"+name) {
			t.Errorf("%s is not tried", name)
		}
	}
	m := make1(t, files{"prog": "#!x"}, everyVerb)
	c := m.img.Config.Config
	if got, want := plain(t, c.Labels[image.ManifestLabel]), plain(t, everyManifest); got != want {
		t.Errorf("manifest:\n%s\nwant\n%s", got, want)
	}
	delete(c.Labels, image.ManifestLabel)
	if got, want := plain(t, c), plain(t, everyConfig); got != want {
		t.Errorf("config:\n%s\nwant\n%s", got, want)
	}
	if m.img.Name != "web" || m.img.Config.Platform.OS != "freebsd" || len(m.img.Layers) != 6 {
		t.Errorf("%s %+v, %d layers", m.img.Name, m.img.Config.Platform, len(m.img.Layers))
	}
	layers, history := 0, m.img.Config.History
	for _, h := range history {
		if !h.EmptyLayer {
			layers++
		}
	}
	if layers != 6 || history[0].CreatedBy != "NAME web" || !strings.Contains(history[2].CreatedBy, "It costs $5.") {
		t.Errorf("history: %+v", history)
	}
}

// Every fault is told with its own line, all at once, before anything is built.
func TestFaultsOfThePlan(t *testing.T) {
	for line, want := range map[string]string{
		"COPY a":                           "write COPY",
		"ENV A":                            `"A" is not NAME=value`,
		"ENV 1=b":                          "not a valid variable name",
		"ENV A=$NONE":                      "variable NONE is not known",
		"ARG 1":                            "not a valid variable name",
		"USER a b":                         "write USER",
		"ENTRYPOINT a | b":                 `'|' needs a shell`,
		"CMD a > b":                        `write CMD ["/bin/sh","-c","a > b"], or`,
		"CMD [1]":                          "JSON array of strings",
		"LABEL org.freejail.manifest=x":    "written by freejail",
		"STOPSIGNAL SIGFOO":                "no such signal",
		"STOPSIGNAL SIGTERM timeout=x":     "not a valid duration",
		"STOPSIGNAL SIGTERM grace=5s":      `unknown option "grace=5s"`,
		"VOLUME data":                      "absolute",
		"VOLUME /a name=A":                 "volumes[0].name",
		"VOLUME /a /b required":            "options belong to one",
		"PORT http":                        "write PORT",
		"PORT http x":                      "not a valid port",
		"PORT http 70000":                  "not a valid port",
		"PORT http 80/sctp":                "neither tcp nor udp",
		"PORT HTTP 80":                     "ports[0].name",
		"PORT http 80 check=ping":          "check=http:/path or check=tcp",
		"PORT http 80 interval=2s":         "belongs to a check",
		"PORT http 80 srevice=x":           "unknown option",
		"PORT http 80 service=x service=y": "given twice",
		"PARAM PATH":                       "is reserved",
		"PARAM A required default=x":       "cannot have a default",
		"PARAM A pattern=(":                "parameters[0].pattern",
		"PARAM A default=x pattern=^y$":    "does not match",
		"DEVFS path bpf":                   "does nothing",
		"DEVFS include 4":                  "include",
		"DEVFS path x unhid":               "unknown keyword",
		"DEVFS path x user root":           "write a number",
		"SYSVIPC shm=old":                  "neither new nor inherit",
		"SYSVIPC foo=new":                  "unknown option",
		"ALLOW raw/sockets":                "not a valid parameter name",
		"JAIL allow.mount=1":               "write ALLOW mount",
		"JAIL vnet=new":                    "use VNET",
		"JAIL path=/":                      "set by freejail",
		"JAIL securelevel":                 "not NAME=value",
		"SYSCTL a":                         "not NAME=value",
		"MOUNT nfs /x":                     "an image can ask for tmpfs",
		"MOUNT tmpfs":                      "write MOUNT",
		"MOUNT tmpfs x":                    "absolute",
		"WRITABLE /":                       "below /",
		"OSVERSION x":                      "not a valid version",
		"WAIT none":                        "neither main nor all",
		"VNET yes":                         "stands alone",
		"LINUX yes":                        "stands alone",
		"NAME a b":                         "write NAME",
		"LIMITS memoryuse 1G":              "resources { memory",
		"LIMITS openfiles 100":             "resources { cpu",
		"CONFIG put x":                     "write CONFIG",
		"CONFIG set devfs_ruleset=4":       "numbers of rulesets",
		"CONFIG set exec.start=/bin/sh":    "one program",
		"CONFIG set path=/":                "set by freejail",
		"CP /etc/passwd /":                 "a file of the host",
		"CP a":                             "write CP",
		"RDR tcp 80":                       "write RDR",
		"RDR tcp 80 x":                     "not a valid port",
		"RENDER /a $(id)":                  "none evaluates this line",
		"LINE_IN_FILE a":                   "write LINE_IN_FILE",
		"MOUNT /usr/ports":                 "write MOUNT",
		"MOUNT /usr/ports usr/ports ro":    "want `/usr/ports usr/ports nullfs ro 0 0`",
		"MOUNT /a b nfs rw 0 0":            "an image can ask for tmpfs",
		"MOUNT /a b nullfs mode=700 0 0":   "there are ro and rw",
		"SERVICE nginx":                    "write SERVICE",
		"PKG a; rm -rf /":                  "none evaluates this line",
		"INCLUDE https://example.org/x":    "nothing is fetched",
		"INCLUDE ../x":                     "leads out of the context",
		"INCLUDE none":                     "no such file none in the context",
		"NAME -x":                          "name:",
		"SUMMARY \"a":                      "unterminated",
		"USAGE a\x1b[2J":                   "control characters",
	} {
		_, err := try(t, files{}, "FROM scratch\nCOPY is-not-there /\n"+line+"\nPORT also wrong\nENV FINE=1\n", nil)
		if err == nil {
			t.Errorf("%q: no error", line)
			continue
		}
		got := strings.Split(err.Error(), "\n")
		if n := strings.Count(err.Error(), "Jailfile:"); n != 2 {
			t.Errorf("%q: %d faults: %v", line, n, err)
		}
		if !strings.Contains(got[0], "Jailfile:3: ") || !strings.Contains(got[0], want) ||
			!strings.Contains(got[len(got)-1], "Jailfile:4: PORT") {
			t.Errorf("%q: %v, want %q at line 3", line, err, want)
		}
	}
	for text, want := range map[string]string{
		"COPY a /b\n":                     "Jailfile:1: COPY: the first instruction must be FROM",
		"ARG A=b\n":                       "missing FROM",
		"FROM gone.tar\nUSER x\n":         "Jailfile:1: FROM: ",
		"FROM name\n":                     "names of images need a store",
		"FROM\n":                          "Jailfile:1: FROM: missing argument",
		"FROM scratch\nRUN x\n":           "Jailfile:2: RUN: RUN is not supported here",
		"ARG A\nFROM scratch\nENV B=$A\n": "Jailfile:3: ENV: ARG A has no value",
	} {
		if _, err := try(t, files{}, text, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestArgs(t *testing.T) {
	text := "ARG BEFORE=1\nFROM scratch\nARG A=default B C=$BEFORE\nENV X=$A-${B:-none}-$C\n"
	for given, want := range map[string]string{"": "X=default-none-1", "A=x": "X=x-none-1", "B=": "X=default-none-1",
		"BEFORE=2": "X=default-none-2"} {
		m, err := try(t, files{}, text, func(o *Options) {
			if k, v, ok := strings.Cut(given, "="); ok {
				o.Args = map[string]string{k: v}
			}
		})
		check(t, err)
		if got := m.img.Config.Config.Env; !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q, want %s", given, got, want)
		}
	}
	_, err := try(t, files{}, text, func(o *Options) { o.Args = map[string]string{"TYPO": "x"} })
	if err == nil || !strings.Contains(err.Error(), "--build-arg TYPO: no ARG declares it") {
		t.Error(err)
	}
}

// What a base asks for is not lost by building on it.
func TestFromInherits(t *testing.T) {
	from := base(t, files{"prog": "#!x"}, everyVerb)
	m := make1(t, files{}, "FROM "+from+"\nNAME child\nPORT http 9090 service=child\nPARAM MORE\nENTRYPOINT "+
		"[\"/bin/added\"]\nENV N=3\nDEVFS path 'bpf*' unhide mode 660\n")
	got := m.img.Manifest
	if got.Name != "child" || len(got.Ports) != 4 || got.Ports[0].Port != 9090 ||
		got.Ports[0].Service.Name != "child" || len(got.Parameters) != 3 ||
		len(got.Requires.Devfs) != 2 || !got.Requires.VNET || got.Requires.Jail["securelevel"] != "2" ||
		len(got.Volumes) != 3 {
		t.Errorf("%+v", got)
	}
	c := m.img.Config.Config
	if _, stale := c.ExposedPorts["8080/tcp"]; stale || len(c.ExposedPorts) != 4 {
		t.Errorf("exposed: %v", c.ExposedPorts)
	}
	if c.Cmd != nil || c.User != "80:81" || !slices.Equal(c.Env, []string{"GREETING=hello world", "N=3"}) ||
		len(m.img.Layers) != 6 {
		t.Errorf("%+v", c)
	}
	layers := 0
	for _, h := range m.img.Config.History {
		if !h.EmptyLayer {
			layers++
		}
	}
	if layers != 6 {
		t.Errorf("the history has %d layers", layers)
	}
}
