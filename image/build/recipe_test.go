package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// recorder is a Runner that notes what it is asked to execute; the commands'
// effects are for a real one to show.
type recorder struct{ said []string }

func (r *recorder) Run(_ context.Context, c Command) error {
	text := fmt.Sprintf("%s in %s as %s", strings.Join(c.Args, "|"), c.Dir, c.User)
	if c.Login {
		text = strings.Join(append([]string{strings.Join(c.Args, "|")}, c.Env...), " ")
	}
	r.said = append(r.said, text)
	return nil
}

func (r *recorder) Open(_ context.Context, c Command) (Jail, error) {
	r.said = append(r.said, "(")
	return r, nil
}

func (r *recorder) Exec(ctx context.Context, c Command) error { return r.Run(ctx, c) }

func (r *recorder) Close(context.Context) error {
	r.said = append(r.said, ")")
	return nil
}

func recipe(t *testing.T, context files, change func(*Options)) (m *made, r *recorder, warned []string, err error) {
	t.Helper()
	r = &recorder{}
	m, err = tryFile(t, context, func(o *Options) {
		o.From, o.Platform = "scratch", ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
		o.Runner = func(string) (Runner, error) { return r, nil }
		o.Warn = func(text string) { warned = append(warned, text) }
		if change != nil {
			change(o)
		}
	})
	return m, r, warned, err
}

const bastillefile = `# A web server with a site
ARG DOMAIN=example.org
arg PORT="80"   # of the jail
ARG EMPTY=""
PKG nginx  curl
CP usr /
CP site/ usr/local/www/
CONFIG set allow.mlock=1;      #
CONFIG set sysvshm=new
CONFIG set enforce_statfs 1;
CONFIG set ip6=inherit;
CONFIG set mount.procfs
RESTART
SYSRC nginx_enable=YES
SYSRC nginx_flags="-g 'daemon on;'" other_flags=${EMPTY}
CMD echo "${DOMAIN} $HOME" | \
    sed 's/a/b/' > /etc/motd; true
RENDER /usr/local/etc
LINE_IN_FILE "domain=${DOMAIN}" etc/site.conf
MOUNT /usr/ports usr/ports nullfs ro 0 0
MOUNT tmpfs tmp tmpfs rw,size=64m 0 0
SERVICE nginx initdb
SERVICE nginx restart
RDR tcp 8080 ${PORT}
TAGS web prod
INCLUDE parts/more --arg NAME=${DOMAIN}
`

func TestBastillefile(t *testing.T) {
	needRoot(t)
	m, r, warned, err := recipe(t, files{"Bastillefile": bastillefile,
		"usr/local/etc/nginx.conf": "server ${DOMAIN}:${PORT} ${OTHER} $DOMAIN;\n",
		"site/index.html":          "hello", "parts/more/Bastillefile": "ARG NAME=default\nCMD echo " +
			"${NAME}\nOVERLAY etc\n", "parts/more/etc/more": "x"}, nil)
	check(t, err)
	want := []string{"pkg|install|-y|nginx|curl ASSUME_ALWAYS_YES=yes", "pkg|clean|-a|-y|-q ASSUME_ALWAYS_YES=yes",
		"sysrc|nginx_enable=YES", "sysrc|nginx_flags=-g 'daemon on;'|other_flags=",
		`/bin/sh|-c|echo "example.org $HOME" |     sed 's/a/b/' > /etc/motd; true`,
		"service|nginx|initdb", "(", "service|nginx|restart", "/bin/sh|-c|echo example.org", "service|nginx|stop", ")"}
	if !slices.Equal(r.said, want) {
		t.Errorf("commands:\n%s\nwant\n%s", strings.Join(r.said, "\n"), strings.Join(want, "\n"))
	}
	m.has("usr/local/etc/nginx.conf", "server example.org:80 ${OTHER} $DOMAIN;\n")
	m.has("usr/local/www/index.html", "hello")
	m.has("etc/site.conf", "domain=example.org\n")
	m.has("etc/more", "x")
	got := m.img.Manifest
	if got.Requires.Allow[0] != "mlock" || got.Requires.SysVIPC.Shm != "new" ||
		got.Requires.Jail["enforce_statfs"] != "1" || len(got.Requires.Jail) != 1 ||
		len(got.Requires.Mounts) != 2 || got.Requires.Mounts[1].Target != "/tmp" ||
		!slices.Equal(got.Requires.Mounts[1].Options, []string{"size=64m"}) {
		t.Errorf("%+v", got.Requires)
	}
	if v := got.Volumes; len(v) != 1 || v[0].Path != "/usr/ports" || v[0].Name != "ports" || !v[0].ReadOnly {
		t.Errorf("%+v", v)
	}
	c := m.img.Config.Config
	if got.Ports[0].Port != 80 || got.Wait != "all" || !slices.Equal(c.Entrypoint, []string{"/bin/sh", "/etc/rc"}) ||
		c.Labels["tags"] != "web,prod" {
		t.Errorf("%+v %+v", got, c)
	}
	if len(warned) != 2 || !strings.Contains(warned[0], "Bastillefile:4: ARG: EMPTY has no value") ||
		!strings.Contains(warned[1], "Bastillefile:11: CONFIG: the network and the names") {
		t.Errorf("warnings: %q", warned)
	}
}

// What cannot be is refused with its line, all at once.
func TestBastillefileFaults(t *testing.T) {
	needRoot(t)
	for line, want := range map[string]string{
		"LIMITS memoryuse 1G":             "resources { memory",
		"ARG IP=$(ifconfig)":              "none evaluates this line",
		"PKG $(cat list)":                 "none evaluates this line",
		"PKG `id`":                        "none evaluates this line",
		"SYSRC a=$HOST_VARIABLE":          "HOST_VARIABLE is not an argument of this file",
		"CP /etc/hosts /etc":              "a file of the host",
		"CP gone /":                       "gone in the context",
		"CP ../x /":                       "leads out of the context",
		"HOSTCMD true":                    "acts on the host",
		"UMOUNT x":                        "acts on the host",
		"FROB x":                          `unknown instruction "FROB"`,
		"PKG":                             "missing argument",
		"ARG+ NEEDED":                     "NEEDED must have a value: give --build-arg NEEDED=VALUE",
		"CMD echo ${JAIL_IP}":             "${JAIL_IP} is not known before a jail starts",
		"INCLUDE https://example.org/a/b": "nothing is fetched",
		"INCLUDE www/none":                "no such file www/none in the context",
		"INCLUDE loop":                    "more than 16 deep",
		"INCLUDE bad":                     "Bastillefile:2: unknown instruction",
		"INCLUDE other":                   "Bastillefile:1: LIMITS",
		"INCLUDE part.jail":               "has a FROM",

		"RENDER ":                          "missing argument",
		"CONFIG set allow.mlock=1 | true":  "none evaluates this line",
		"MOUNT /a b nullfs rw; reboot 0 0": "none evaluates this line",
	} {
		_, r, _, err := recipe(t, files{"Bastillefile": "ARG A=b\n" + line + "\n",
			"loop/Bastillefile": "INCLUDE loop\n", "bad/Bastillefile": "CMD x\nFROB\n",
			"other/Bastillefile": "LIMITS a b\n", "part.jail": "FROM x\n", "link": "-> /etc"}, nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Bastillefile:") {
			t.Errorf("%q: %v, want %s", line, err, want)
		}
		if len(r.said) > 0 {
			t.Errorf("%q: it was executed: %q", line, r.said)
		}
	}
	_, _, _, err := recipe(t, files{"Bastillefile": "LIMITS a b\nCMD x\nCP /x /\n"}, nil)
	if err == nil || !strings.Contains(err.Error(), ":1: LIMITS") || !strings.Contains(err.Error(), ":3: CP") {
		t.Error(err)
	}
	_, _, _, err = recipe(t, files{"Bastillefile": "CMD x\n"}, func(o *Options) { o.From = "" })
	if err == nil || !strings.Contains(err.Error(), "give --from BASE") {
		t.Error(err)
	}
	_, _, _, err = recipe(t, files{"Jailfile": "FROM scratch\n"}, nil)
	if err == nil || !strings.Contains(err.Error(), "--from is for a Bastillefile") {
		t.Error(err)
	}
}

// A tree of templates is a context; what a template copies is in its own
// directory.
func TestATreeOfTemplates(t *testing.T) {
	needRoot(t)
	tree := files{"www/app/Bastillefile": "INCLUDE www/nginx\nCP etc /\n", "www/app/etc/app": "app",
		"www/nginx/Bastillefile": "CP etc /\n", "www/nginx/etc/nginx": "nginx", "etc/wrong": "x"}
	m, _, _, err := recipe(t, tree, func(o *Options) { o.File = filepath.Join(o.Context, "www/app/Bastillefile") })
	check(t, err)
	m.want(0, "5 etc/ 755 0:0", "0 etc/nginx 644 0:0")
	m.want(1, "0 etc/app 644 0:0")
}

// What a template names by its address lies in the context by its last two names.
func TestTemplatesWithAnAddress(t *testing.T) {
	needRoot(t)
	for _, name := range []string{"https://example.org/other/nginx-php", "http://example.org:80/other/nginx-php.git",
		"https://example.org/other/nginx-php/", "other/nginx-php"} {
		m, _, _, err := recipe(t, files{"Bastillefile": "ARG U=" + name + "\nINCLUDE ${U} --arg A=b\n",
			"other/nginx-php/Bastillefile": "ARG A\nCP etc /\nRENDER /etc\n", "other/nginx-php/etc/f": "${A}"}, nil)
		check(t, err)
		m.has("etc/f", "b")
	}
	for _, name := range []string{"https://example.org/a", "https://example.org/../..", "ftp://example.org/a/b",
		"https://example.org/none/there"} {
		_, _, _, err := recipe(t, files{"Bastillefile": "INCLUDE " + name + "\n"}, nil)
		if err == nil || !strings.Contains(err.Error(), "Bastillefile:1: INCLUDE: nothing is fetched") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The base is named on the command line, whose paths are relative to the current
// directory and not to the recipe's.
func TestTheBaseIsRelativeToTheCurrentDirectory(t *testing.T) {
	needRoot(t)
	from := base(t, files{"f": "base"}, "FROM scratch\nCOPY f /\n")
	t.Chdir(filepath.Dir(from))
	for _, name := range []string{filepath.Base(from), "./" + filepath.Base(from)} {
		m, _, _, err := recipe(t, files{"www/app/Bastillefile": "TAGS x\n", "www/app/image.tar": "not one"},
			func(o *Options) {
				o.From, o.Platform = name, ocispec.Platform{}
				o.File = filepath.Join(o.Context, "www/app/Bastillefile")
			})
		check(t, err)
		m.has("f", "base")
	}
}

// A template may be of a file for each word.
func TestHookFiles(t *testing.T) {
	needRoot(t)
	m, r, _, err := recipe(t, files{"PKG": "nginx\n# no\n\nvim\n", "OVERLAY": "usr\n", "usr/f": "${A}", "ARG": "A=1\n",
		"CMD": "echo ${A} > /x", "PRE": "true\n", "SYSRC": "a=b\n", "PF": "tcp 80 80\n", "RENDER": "/usr/f\n",
		"FSTAB": "/a b nullfs ro 0 0\n", "CONFIG": "etc", "etc/g": "g", "INCLUDE/": ""}, nil)
	check(t, err)
	want := []string{"/bin/sh|-c|true", "pkg|install|-y|nginx ASSUME_ALWAYS_YES=yes",
		"pkg|clean|-a|-y|-q ASSUME_ALWAYS_YES=yes", "pkg|install|-y|vim ASSUME_ALWAYS_YES=yes",
		"pkg|clean|-a|-y|-q ASSUME_ALWAYS_YES=yes", "sysrc|a=b", "/bin/sh|-c|echo 1 > /x"}
	if !slices.Equal(r.said, want) {
		t.Errorf("%q", r.said)
	}
	m.has("usr/f", "1")
	m.has("etc/g", "g")
	if p := m.img.Manifest; len(p.Ports) != 1 || len(p.Volumes) != 1 {
		t.Errorf("%+v", p)
	}
	for name, text := range map[string]string{"SYSRC": "\na=$b\n", "LIMITS": "# x\nmemoryuse 1G\n"} {
		_, _, _, err := recipe(t, files{name: text}, nil)
		if err == nil || !strings.Contains(err.Error(), "/"+name+":2: "+name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, _, _, err = recipe(t, files{"x": ""}, nil)
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Error(err)
	}
}

// Jailfiles have the same instructions, and CMD keeps its own meaning there.
func TestHooksInAJailfile(t *testing.T) {
	needRoot(t)
	m, r, _, err := recipe(t, files{"Jailfile": "FROM scratch\nENV WHO=me\nWORKDIR /w\nUSER 80\nCP etc /\nRENDER " +
		"/etc/conf\nINCLUDE more.jail\nSYSRC a_enable=YES\nCMD /bin/prog $WHO\n",
		"etc/conf": "${WHO}", "more.jail": "ENV MORE=1\nCOPY etc/conf /copied\n"}, func(o *Options) { o.From = "" })
	check(t, err)
	m.has("etc/conf", "me")
	m.has("copied", "${WHO}")
	if !slices.Equal(r.said, []string{"sysrc|a_enable=YES in / as "}) ||
		!slices.Equal(m.img.Config.Config.Cmd, []string{"/bin/prog", "me"}) || m.img.Config.Config.Env[1] != "MORE=1" {
		t.Errorf("%q %+v", r.said, m.img.Config.Config)
	}
}

func TestLineInFile(t *testing.T) {
	m := make1(t, files{"f": "one\ntwo", "g": "one\n"}, "FROM scratch\nCOPY --chmod=0600 --chown=3:4 f g "+
		"/\nLINE_IN_FILE one /f\nLINE_IN_FILE tw /f\nLINE_IN_FILE one /new/dir/h\nLINE_IN_FILE one /new/dir/h\n")
	m.has("f", "one\ntwo\ntw\n")
	m.has("new/dir/h", "one\n")
	m.want(1, "0 f 600 3:4")
	m.want(2, "5 new/ 755 0:0", "5 new/dir/ 755 0:0", "0 new/dir/h 644 0:0")
	if len(m.img.Layers) != 3 {
		t.Errorf("%d layers", len(m.img.Layers))
	}
	fails(t, files{"f": ""}, "FROM scratch\nCOPY f /d/\nLINE_IN_FILE x /d\n", 3, "/d is not a file")
}

func FuzzBastillefile(f *testing.F) {
	f.Add(bastillefile)
	f.Add("ARG A=b\nCMD ${A} 'x\nSYSRC a=\"b c\" d\\\n e\nCONFIG set a b;\n")
	f.Add("MOUNT /a b nullfs ro,rw 0 0\nRDR udp 1 2\nCP a b c\nARG+ X\nLIF a b\n# c\nINCLUDE x --arg Y=z\n")
	f.Add("SERVICE a start\nCMD x\nCP f /\nSERVICE b restart\nCMD y\nSERVICE a stop\nSERVICE b reload\nSYSRC c=d\n")
	f.Add("RDR -i a tcp 80-90 80:*\nCONFIG remove allow.a\nCONFIG set allow.nob\nTAGS a,b c\nARG a-b='$(x)'\nPKG ${a-b} ${c:-`\n")
	for _, form := range forms {
		f.Add(form.form)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := ParseBastille("B", strings.NewReader(text))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "B:") {
				t.Errorf("%v names no file", err)
			}
			return
		}
		file.Instructions = append([]Instruction{{Verb: "FROM", Line: 1, Text: "scratch"}}, file.Instructions...)
		p := &planner{file: file, base: func(string, ocispec.Platform) (*image.Image, error) {
			return nil,
				errors.New("none")
		}}
		if err := p.plan(t.Context()); err != nil {
			return
		}
		if _, err := p.imageConfig(); err != nil {
			t.Errorf("a plan without faults makes no config: %v", err)
		}
		for _, s := range p.planned {
			if _, ok := s.step.(*serviceStep); ok || len(s.instructions()) == 0 {
				t.Errorf("line %d is executed by nothing", s.in.Line)
			}
			c, ok := s.step.(*copyStep)
			if ok && slices.ContainsFunc(c.sources, filepath.IsAbs) {
				t.Errorf("it copies %q of the host", c.sources)
			}
		}
	})
}

// tryFile is try for a context that has its recipe.
func tryFile(t *testing.T, context files, change func(*Options)) (*made, error) {
	t.Helper()
	text, ok := context["Jailfile"]
	if ok {
		return try(t, context, text, change)
	}
	return try(t, context, "FROM none\n", func(o *Options) {
		check(t, os.Remove(filepath.Join(o.Context, "Jailfile")))
		change(o)
	})
}

// A destination that is not there becomes the directory that is copied, with a
// final slash too, as cp(1) has it.
func TestCopiesAsCp(t *testing.T) {
	needRoot(t)
	m, _, _, err := recipe(t, files{"Bastillefile": "CP d /new\nCP d /slash/\nCP d /new\nCP d/ /new\nCP d e /many\nCP f /dir/\n",
		"d/f": "1", "e/g": "2", "f": "3"}, nil)
	check(t, err)
	for name, text := range map[string]string{"new/f": "1", "slash/f": "1", "new/d/f": "1", "many/d/f": "1", "many/e/g": "2",
		"dir/f": "3"} {
		m.has(name, text)
	}
}
