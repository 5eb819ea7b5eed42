package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
)

func TestParseContainerfile(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"simple":       {"from scratch\nEnv A=b", "1 FROM [] \"scratch\"\n2 ENV [] \"A=b\"\n"},
		"mark and CR":  {"\xef\xbb\xbfFROM x\r\nRUN a \\\r\n b\r\n", "1 FROM [] \"x\"\n2 RUN [] \"a  b\"\n"},
		"empty inside": {"RUN a \\\n\n# c\n  b", "1 RUN [] \"a   b\"\n"},
		"ends so":      {"RUN a \\", "1 RUN [] \"a\"\n"},
		"directives":   {"# syntax=docker/dockerfile:1\n# escape=`\nRUN a `\n b\\", "3 RUN [] \"a  b\\\\\"\n"},
		"flags": {"COPY --chown='a b' --link --exclude=x --exclude=y s d", "1 COPY [{\"chown\" \"a b\"} " +
			"{\"link\" \"true\"} {\"exclude\" \"x\"} {\"exclude\" \"y\"}] \"s d\"\n"},
		"no flag":   {"ENTRYPOINT [\"--x\"]", "1 ENTRYPOINT [] \"[\\\"--x\\\"]\"\n"},
		"a script":  {"RUN <<EOF\n# a\nEOF\nUSER x", "1 RUN [] \"\" << \"# a\\n\"\n4 USER [] \"x\"\n"},
		"tabs":      {"RUN <<-E\n\ta\n\tE", "1 RUN [] \"\" << \"a\\n\"\n"},
		"a shell's": {"RUN cat <<A <<B\na\nA\nb\nB", "1 RUN [] \"cat <<A <<B\\na\\nA\\nb\\nB\\n\"\n"},
		"JSON":      {"RUN [\"<<A\", \"b\"]\nUSER x", "1 RUN [] \"[\\\"<<A\\\", \\\"b\\\"]\"\n2 USER [] \"x\"\n"},
		"Jailfile":  {"PORT http 80 check=tcp\nVNET", "1 PORT [] \"http 80 check=tcp\"\n2 VNET [] \"\"\n"},
	} {
		f, err := ParseContainerfile("C", strings.NewReader(c.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := show(f); got != c.want {
			t.Errorf("%s:\n%swant\n%s", name, got, c.want)
		}
	}
}

func TestParseContainerfileErrors(t *testing.T) {
	for text, want := range map[string][]string{
		"FORM x":                                    {"C:1: unknown instruction: FORM (did you mean FROM?)"},
		"FROM x\nFOO\nENV a\nBAR\nLABEL x=y z":      {"C:3: ENV must have two", "C:5: Syntax error - can't find =", "C:2: unk", "C:4: unk"},
		"FROM x\nCOPY --form=a b c":                 {"C:2: COPY: unknown flag: --form (did you mean --from?)"},
		"CMD --port 80":                             {"C:1: CMD: unknown flag: --port: it takes none"},
		"COPY --chown a b":                          {"C:1: COPY: --chown needs a value"},
		"FROM x\nRUN <<E\na\n":                      {"C:2: unterminated heredoc: add a line"},
		"FROM x\nUSER":                              {"C:2: USER: missing argument: write USER"},
		"# escape=x\nFROM x":                        {"C:1: invalid escape token"},
		"RUN [\"a\", 1]":                            {"C:1: when using JSON array syntax"},
		"# only\n":                                  {"C:1: no instructions"},
		"FROM x\nUSAGE <<E\nx\nE":                   {"C:2: USAGE: a text after << is for a Jailfile", "C:3: unk", "C:4: unk"},
		"FROM x\nONBUILD RUN <<E\nx\nE":             {"C:2: ONBUILD: a text after << is not supported"},
		"FROM x\nRUN " + strings.Repeat("x", 1<<17): {"C:2: the line has more than 65534"},
		"FROM x\nRUN a\\\n" + strings.Repeat("# c\n\n${a-\\\n", 1<<15): {"C:78644: the instruction has more than"},
		strings.Repeat("#\n", 1<<20):                                   {"C:0: the file has more than"},
	} {
		_, err := ParseContainerfile("C", strings.NewReader(text))
		if err == nil {
			t.Errorf("%.50q: no error", text)
			continue
		}
		got := strings.Split(err.Error(), "\n")
		for i, w := range want {
			if len(got) != len(want) || !strings.HasPrefix(got[i], w) {
				t.Errorf("%.50q: %q, want %q", text, got, want)
				break
			}
		}
	}
}

// A file is a Containerfile by its name, or by having nothing of a Jailfile.
func TestIsContainerText(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       bool
	}{
		{"Containerfile", "NAME x", true}, {"/x/Dockerfile", "", true}, {"Dockerfile.web", "", true},
		{"web.dockerfile", "", true}, {"Jailfile", "FROM x", false}, {"web.Jailfile", "FROM x", false},
		{"-", "FROM x\nRUN a && \\\n service x\n", true}, {"-", "FROM x\nRUN <<E\ncp a b\nE\n", true},
		{"-", "FROM x\nPORT http 80\n", false}, {"recipe", "FROM x\nUSAGE <<E\nENV x\nE\n", false},
	} {
		if got := isContainerText(c.name, []byte(c.text)); got != c.want {
			t.Errorf("%s %q: %v", c.name, c.text, got)
		}
	}
}

// The two readers of lines make the same of what both understand.
func TestReadersAgree(t *testing.T) {
	for _, text := range []string{
		"FROM scratch\nCOPY --chown=a b c\nRUN <<EOF\nx\nEOF\n",
		"# c\nFROM a AS b\n\n  # d\nRUN a \\\n  b \\\n# between\n  c\nUSER x\n",
		"FROM\tscratch\r\nUSER  x \r\nENV A=b\\ c \"D=e f\"\n",
		"FROM x\nRUN cat <<E > /x\na\nE\nRUN <<-'E'\n\tx\n\tE\nVOLUME [\"/a\"]\n",
		"FROM x\nCOPY <<A <<\"B\" /d/\n$x\nA\n$y\nB\nWORKDIR /x\n",
		strings.ReplaceAll(everyVerb, "USAGE <<EOF\n# Web\n\nIt costs $5.\nEOF\n", ""),
	} {
		a, err1 := Parse("J", strings.NewReader(text))
		b, err2 := ParseContainerfile("J", strings.NewReader(text))
		check(t, err1)
		check(t, err2)
		if show(a) != show(b) {
			t.Errorf("%s\nas a Jailfile\n%sas a Containerfile\n%s", text, show(a), show(b))
		}
		for i := range a.Instructions {
			if x, y := a.Instructions[i].heredocs, b.Instructions[i].heredocs; !slices.Equal(x, y) {
				t.Errorf("%+v and %+v", x, y)
			}
		}
	}
}

var lexed = []string{
	`a`, `$A`, `${A}b`, `"$A"`, `'$A'`, `\$A`, `"\$A"`, `a\ b`, `"a\"b"`, `"a\b"`, `$NONE`, `x${NONE}y`, `$`, `a$`,
	`$1`, `$12x`, `$@`, `${A:-d}`, `${NONE:-d}`, `${NONE-d}`, `${EMPTY-d}`, `${EMPTY:-d}`, `${A:+y}`, `${NONE:+y}`,
	`${EMPTY+y}`, `${EMPTY:+y}`, `${NONE:-$A}`, `${NONE:-${ALSO:-z}}`, `${NONE:-"a b"}`, `${NONE:-'$A'}`,
	`${NONE:-a\}b}`, `${A:?no}`, `${NONE:?no}`, `${NONE?no}`, `${EMPTY:?no}`, `${EMPTY?no}`, `${P#*/}`, `${P##*/}`,
	`${P%/*}`, `${P%%/*}`, `${P#/}`, `${P%c.tar.gz}`, `${P%.*}`, `${P%%.*}`, `${P#x}`, `${P/b/X}`, `${P//b/X}`,
	`${P/b*/X}`, `${P//?b/X}`, `${P/\//X}`, `${P//\//-}`, `${P/none/X}`, `${V//./_}`, `${V%.*}-${V##*.}`,
	`${P#$A}`, `${Q#\*}`, `${P/$NONE/}`, `${A`, `${`, `${}`, `${A:}`, `${A:x}`, `${A=x}`, `"a`, `'a`, `\`,
	`a\`, `"a'b'c"`, `'a"b"c'`, `a"b"'c'`, `ü${A}ü`, `<<EOF`, `a < b`,
}

// Words of a Containerfile are as BuildKit reads them.
func TestWordsAsBuildKit(t *testing.T) {
	env := map[string]string{"A": "one two", "EMPTY": "", "P": "/a/b/bb/c.tar.gz", "V": "1.22.3", "Q": "*x"}
	var list []string
	for k, v := range env {
		list = append(list, k+"="+v)
	}
	for _, escape := range []byte("\\`") {
		for _, text := range lexed {
			if escape == '`' && strings.ContainsAny(text, "/#") {
				continue // in patterns BuildKit knows the backslash alone
			}
			text = strings.ReplaceAll(text, `\`, string(escape))
			want, _, werr := shell.NewLex(rune(escape)).ProcessWord(text, shell.EnvsFromSlice(list))
			l := containerLexer(env)
			l.escape = escape
			got, err := l.word(text)
			if got != want && err == nil || (err == nil) != (werr == nil) {
				t.Errorf("%s: %q %v, BuildKit says %q %v", text, got, err, want, werr)
			}
		}
	}
}

func containerLexer(env map[string]string) *lexer {
	l := plainLexer(func(name string) (string, error) {
		if v, ok := env[name]; ok {
			return v, nil
		}
		return "", fmt.Errorf("no %s", name)
	})
	l.container = true
	return l
}

// FuzzWords compares with BuildKit what both can read, and wants no word without
// a bound.
func FuzzWords(f *testing.F) {
	for _, text := range lexed {
		f.Add(text)
	}
	env := map[string]string{"A": "one two", "EMPTY": "", "P": "/a/b/bb/c.tar.gz"}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := containerLexer(env).word(text)
		if len(got) > maxLine {
			t.Errorf("%d bytes", len(got))
		}
		if err != nil || strings.ContainsAny(text, "/\x00") || strings.ContainsFunc(text, func(r rune) bool { return r > 126 }) {
			return // of patterns BuildKit reads less, and of names more
		}
		want, _, err := shell.NewLex('\\').ProcessWord(text, shell.EnvsFromSlice([]string{"A=one two", "EMPTY=",
			"P=/a/b/bb/c.tar.gz"}))
		if err == nil && got != want {
			t.Errorf("%q: %q, BuildKit says %q", text, got, want)
		}
	})
}

// FuzzContainerfile wants faults at lines, and a plan that makes a config.
func FuzzContainerfile(f *testing.F) {
	f.Add("# escape=`\nFROM scratch AS a\nCOPY --link <<A <<B /d/\nx\nA\n$y\nB\nRUN a `\n b <<C\nC\n")
	f.Add("ARG A=${B:-x}\nFROM ${A%x}\nHEALTHCHECK --retries=3 CMD x\nEXPOSE 80-90/udp\nSHELL [\"a\"]\nONBUILD RUN x\n")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := ParseContainerfile("C", strings.NewReader(text))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "C:") {
				t.Errorf("%v names no file", err)
			}
			return
		}
		last, lines := 0, strings.Count(text, "\n")+1
		for _, in := range file.Instructions {
			if in.Line <= last || in.Line > lines {
				t.Errorf("line %d after %d of %d", in.Line, last, lines)
			}
			last = in.Line
		}
		p := &planner{file: file, base: func(string, ocispec.Platform) (*image.Image, error) {
			return &image.Image{Manifest: &image.Manifest{SchemaVersion: 1}}, nil
		}}
		if err := p.plan(t.Context()); err == nil {
			if _, err := p.imageConfig(); err != nil {
				t.Errorf("a plan without faults makes no config: %v", err)
			}
		}
	})
}

// A hostile file costs little, also where BuildKit's parser has to look for <<.
func TestContainerfilesWithoutEnd(t *testing.T) {
	long := strings.Repeat("x", maxLine/2-1000)
	for name, text := range map[string]string{
		"nested":           "FROM x\nRUN <<E " + strings.Repeat(strings.Repeat("${a-", 10000)+"\\\n", 3),
		"many <<":          "FROM x\nRUN " + strings.Repeat("<<E ", 15000),
		"mistakes":         "FROM x\n" + strings.Repeat("ENV x\n", 100000),
		"nested variables": "FROM scratch\nENV A=" + strings.Repeat("${a:-", 10000) + strings.Repeat("}", 10000),
		"doubled":          "FROM scratch\nENV v0=x\n" + doubling(40, "ENV NEW=OLDOLD"),
		"replaced":         "FROM scratch\nENV v=" + long + "\nENV w=${v//x/$v}\n",
		"patterns": "FROM scratch\nENV v=" + long + "\n" + strings.Repeat("ENV w=${v%"+strings.Repeat("*x", 100)+
			"y}\n", 1000),
		"a text":    "FROM scratch\nENV v=" + long + "\nCOPY <<A /a\n" + strings.Repeat("$v", 10000) + "\nA\n",
		"a long <<": "FROM x\nRUN <<A\n" + strings.Repeat("x\n", 500000) + "A\n",
		"no ends":   "FROM x\n" + strings.Repeat("RUN <<A\n", 9000),
		"ports":     "FROM scratch\nEXPOSE 1-65535\n",
		"triggers":  "FROM scratch\n" + strings.Repeat("ONBUILD RUN x\n", 1000),
	} {
		begin := time.Now()
		_, _, err := container(t, nil, text, nil)
		if err == nil || len(err.Error()) > 1<<20 {
			t.Errorf("%s: %.1000v", name, err)
		}
		t.Logf("%s: %v, %.200v", name, time.Since(begin), err) // one without an end is ended by go test
	}
}

// container builds a Containerfile, without RUN.
func container(t *testing.T, context files, lines string, change func(*Options)) (*made, []string, error) {
	t.Helper()
	var warnings []string
	m, err := try(t, context, "", func(o *Options) {
		check(t, os.Remove(filepath.Join(o.Context, "Jailfile")))
		check(t, os.WriteFile(filepath.Join(o.Context, ContainerFile), []byte(lines), 0o644))
		o.Warn = func(text string) { warnings = append(warnings, text) }
		if change != nil {
			change(o)
		}
	})
	return m, warnings, err
}

// What docker has beside OCI's config is kept, and ONBUILD is done by the next
// build.
func TestDockersConfig(t *testing.T) {
	m, warned, err := container(t, nil, "FROM scratch\nENV P=8080\nSHELL [\"/bin/ksh\", \"-c\"]\nHEALTHCHECK --interval=5s CMD "+
		"curl -f http://localhost:$P/up || exit 1\nONBUILD COPY f /g\nONBUILD ENV X=$Y\nENTRYPOINT a | b\n"+
		"MAINTAINER Some One\nEXPOSE 80 53/udp 8000-8001\nVOLUME /data\nSTOPSIGNAL SIGINT\n", nil)
	check(t, err)
	want := `{"Healthcheck":{"Test":["CMD-SHELL","curl -f http://localhost:$P/up || exit 1"],"Interval":5000000000},` +
		`"OnBuild":["COPY f /g","ENV X=$Y"],"Shell":["/bin/ksh","-c"]}`
	if b, err := json.Marshal(m.img.Docker); err != nil || string(b) != want {
		t.Errorf("%s %v", b, err)
	}
	c := m.img.Config
	if _, described := c.Config.Labels[image.ManifestLabel]; described || c.Author != "Some One" ||
		fmt.Sprint(c.Config.Entrypoint) != "[/bin/ksh -c a | b]" || len(c.Config.ExposedPorts) != 4 ||
		len(c.Config.Volumes) != 1 || c.Config.StopSignal != "SIGINT" {
		t.Errorf("%+v", c)
	}
	if len(warned) != 1 || !strings.Contains(warned[0], "write PORT http 8080 check=http:/up") {
		t.Error(warned)
	}
	next, _, err := container(t, files{"f": "x"}, "FROM "+m.path+"\nENV Z=1\n", nil)
	check(t, err)
	next.has("g", "x")
	if env := next.img.Config.Config.Env; !slices.Contains(env, "X=") || next.img.Docker.OnBuild != nil ||
		next.img.Docker.Healthcheck == nil {
		t.Errorf("%q %+v", env, next.img.Docker)
	}
}

// A short name is in the registry that docker means by it, unless the store has it.
func TestShortNames(t *testing.T) {
	for name, want := range map[string]string{"debian": "docker.io/library/debian:latest", "a/b:1": "docker.io/a/b:1",
		"registry.example/x": "registry.example/x", "localhost/x:1": "localhost/x:1", "docker://r.example/x": "r.example/x"} {
		got := ""
		_, warned, err := container(t, files{"debian/f": "x"}, "FROM "+name+"\n", func(o *Options) {
			o.Pull = func(_ context.Context, _ *layout.Store, ref string, _ ocispec.Platform) (*image.Image, error) {
				got = ref
				return nil, errors.New("not today")
			}
		})
		if err == nil || got != want || (len(warned) == 1) != strings.HasPrefix(want, "docker.io") {
			t.Errorf("%s: %s %v, want %s; %q", name, got, err, want, warned)
		}
	}
}

// An image that describes itself has its EXPOSE in the description too.
func TestExposedAndDescribed(t *testing.T) {
	m, _, err := container(t, nil, "FROM scratch\nEXPOSE 80 53/udp 9/sctp\nPORT http 80 check=tcp\n", nil)
	check(t, err)
	if p := m.img.Manifest.Ports; len(p) != 2 || p[0].Name != "http" || p[1].Name != "udp-53" {
		t.Errorf("%+v", p)
	}
}
