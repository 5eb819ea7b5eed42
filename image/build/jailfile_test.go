package build

import (
	"fmt"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// show is a parsed file as text.
func show(f *File) string {
	var b strings.Builder
	for _, in := range f.Instructions {
		fmt.Fprintf(&b, "%d %s %q %q", in.Line, in.Verb, in.Flags, in.Text)
		if in.Heredoc != nil {
			fmt.Fprintf(&b, " << %q", *in.Heredoc)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestParse(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"simple": {"FROM scratch\nENV A=b", "1 FROM [] \"scratch\"\n2 ENV [] \"A=b\"\n"},
		"comments and blanks": {"# c\n\n  # d\nFROM scratch # not a comment\n\n",
			"4 FROM [] \"scratch # not a comment\"\n"},
		"lower case":    {"from scratch", "1 FROM [] \"scratch\"\n"},
		"tabs and CRLF": {"FROM\tscratch\r\nUSER  x \r\n", "1 FROM [] \"scratch\"\n2 USER [] \"x\"\n"},
		"continued": {"FROM scratch\nRUN a \\\n  b \\\n# between\n  c\nUSER x",
			"1 FROM [] \"scratch\"\n2 RUN [] \"a   b   c\"\n6 USER [] \"x\"\n"},
		"flags": {"COPY --chown=a:b --chmod=0755 x --y /z",
			"1 COPY [{\"chown\" \"a:b\"} {\"chmod\" \"0755\"}] \"x --y /z\"\n"},
		"heredoc": {"USAGE <<EOF\n# not a comment\n\\\nEOF\nUSER x",
			"1 USAGE [] \"\" << \"# not a comment\\n\\\\\\n\"\n5 USER [] \"x\"\n"},
		"heredoc with tabs":  {"USAGE <<-'END'\n\ta\n\tEND", "1 USAGE [] \"\" << \"a\\n\"\n"},
		"heredoc of a shell": {"RUN cat <<E > /x\na\nE", "1 RUN [] \"cat <<E > /x\\na\\nE\\n\"\n"},
		"no options":         {"CMD --port 80", "1 CMD [] \"--port 80\"\n"},
		"stands alone":       {"VNET", "1 VNET [] \"\"\n"},
	} {
		f, err := Parse("J", strings.NewReader(c.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := show(f); got != c.want {
			t.Errorf("%s:\n%swant\n%s", name, got, c.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string // each begins an error's line
	}{
		"unknown": {"FROM scratch\n\nCOPPY a b",
			[]string{`J:3: unknown instruction "COPPY": did you mean COPY?`}},
		"far from any": {"XYZZYPLUGH a",
			[]string{`J:1: unknown instruction "XYZZYPLUGH": there are ADD, ALLOW, ARG, ARG+, CMD, CONFIG, COPY,`}},
		"several": {"FROM scratch\nFOO\nUSER\nBAR x",
			[]string{"J:2: unknown", "J:3: USER: missing argument", "J:4: unknown"}},
		"unknown option": {"COPY --form=x a b",
			[]string{"J:1: COPY: unknown option --form: it takes --from, --chown, --chmod"}},
		"option of RUN": {"RUN --privileged x",
			[]string{"J:1: RUN: unknown option --privileged: it takes --mount, --network, --allow, --sysvipc"}},
		"no value":        {"COPY --chown= a b", []string{"J:1: COPY: --chown needs a value"}},
		"after backslash": {"FROM scratch\nRUN a \\", []string{"J:2: the file ends after a backslash"}},
		"empty line":      {"RUN a \\\n\nUSER b", []string{"J:2: an empty line follows a backslash"}},
		"open heredoc":    {"FROM scratch\nUSAGE <<EOF\nx\n", []string{"J:2: USAGE: the text after <<EOF has no end"}},
		"hidden heredoc": {"USAG <<EOF\nFROM x\nEOF\nFOO",
			[]string{`J:1: unknown instruction "USAG": did you mean USAGE?`, "J:4: unknown"}},
		"nothing": {"# only this\n", []string{"J: no instructions"}},
		"long line": {"FROM scratch\nRUN " + strings.Repeat("x", maxLine),
			[]string{"J:2: the line has more than"}},
	} {
		_, err := Parse("J", strings.NewReader(c.text))
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		got := strings.Split(err.Error(), "\n")
		if len(got) != len(c.want) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, w := range c.want {
			if !strings.HasPrefix(got[i], w) {
				t.Errorf("%s: %q, want %q", name, got[i], w)
			}
		}
	}
}

func TestWords(t *testing.T) {
	vars := func(name string) (string, error) {
		if v, ok := map[string]string{"A": "one two", "E": ""}[name]; ok {
			return v, nil
		}
		return "", fmt.Errorf("no %s", name)
	}
	for text, want := range map[string][]string{
		`a  b	c`:           {"a", "b", "c"},
		`'a b' "c d"`:      {"a b", "c d"},
		`a\ b`:             {"a b"},
		`"a\"b\c"`:         {`a"b\c`},
		`$A`:               {"one two"},
		`"$A"x${A}`:        {"one twoxone two"},
		`'$A' \$A`:         {"$A", "$A"},
		`$E`:               nil,
		`"$E"`:             {""},
		`${X:-d} ${A:-d}`:  {"d", "one two"},
		`${A:+y} ${E:+n}z`: {"y", "z"},
		`5$ a$`:            {"5$", "a$"},
		`''`:               {""},
	} {
		got, err := words(text, vars)
		if err != nil || fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Errorf("%s: %q %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{`'a`, `"a`, `a\`, `$X`, `${A`, `${A-b}`, `${}`} {
		if got, err := words(text, vars); err == nil {
			t.Errorf("%s: %q", text, got)
		}
	}
}

// FuzzParse wants every instruction at a line of the file, in order, and every
// fault at one too.
func FuzzParse(f *testing.F) {
	f.Add("FROM scratch\nCOPY --chown=a b c\nRUN <<EOF\nx\nEOF\nUSAGE a \\\n b\n")
	f.Add("FROM x\nENV A=$B \"c\n")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Parse("J", strings.NewReader(text))
		lines := strings.Count(text, "\n") + 1
		if err != nil {
			if !strings.HasPrefix(err.Error(), "J:") {
				t.Errorf("%v names no file", err)
			}
			return
		}
		last := 0
		for _, in := range file.Instructions {
			if in.Line <= last || in.Line > lines {
				t.Errorf("line %d after %d of %d", in.Line, last, lines)
			}
			last = in.Line
			if _, known := verbs[in.Verb]; !known {
				t.Errorf("unknown verb %q", in.Verb)
			}
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
