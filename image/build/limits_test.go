package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// doubling are lines of which each is twice the one before it.
func doubling(n int, line string) string {
	var b strings.Builder
	for i := 1; i <= n; i++ {
		b.WriteString(strings.NewReplacer("NEW", fmt.Sprint("v", i), "OLD", fmt.Sprint("${v", i-1, "}")).Replace(line) +
			"\n")
	}
	return b.String()
}

func numbered(n int, line string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, line+"\n", i)
	}
	return b.String()
}

// Recipes that grow without end are told with the line at which they pass a
// limit, before they cost anything.
func TestRecipesWithoutEnd(t *testing.T) {
	long := strings.Repeat("x", maxLine-100)
	for name, c := range map[string]struct {
		context files
		recipe  string
		want    string
	}{
		"ARG doubles": {nil, "FROM scratch\nARG v0=xxxxxxxx\n" + doubling(40, "ARG NEW=OLDOLD"),
			":16: ARG: with its variables replaced a word has more than"},
		"ARG before FROM": {nil, "ARG v0=xxxxxxxx\n" + doubling(40, "ARG NEW=OLDOLD") + "FROM scratch\n",
			":15: ARG: with its variables"},
		"ENV doubles": {nil, "FROM scratch\nENV v0=xxxxxxxx\n" + doubling(40, "ENV NEW=OLDOLD"),
			":16: ENV: with its variables"},
		"LABEL": {nil, "FROM scratch\nENV v0=" + long + "\nLABEL a=$v0$v0\n",
			":3: LABEL: with its variables"},
		"JSON": {nil, "FROM scratch\nENV v0=" + long + "\nVOLUME [\"/$v0$v0\"]\n",
			":3: VOLUME: with its variables"},
		"option": {nil, "FROM scratch\nENV v0=" + long + "\nCOPY --chown=$v0$v0 a /\n",
			":3: COPY: --chown: with its variables"},
		"many words": {nil, "FROM scratch\nENV v0=" + long + "\nCMD /x" + strings.Repeat(" $v0", 1000) +
			"\n", ":3: CMD: with its variables replaced the recipe has more than"},
		"many lines": {nil, "FROM scratch\nENV v0=" + long + "\n" + numbered(1000, "LABEL a%d=$v0"),
			"LABEL: with its variables replaced the recipe"},
		"alternatives": {nil, "FROM scratch\nENV v0=" + long + "\n" + numbered(4000,
			"LABEL a%d="+strings.Repeat("${v0:+}", 20)), "LABEL: with its variables replaced the recipe"},
		"environments": {nil, "FROM scratch\nENV v0=" + long + "\n" + strings.Repeat("RUN x\n", 1000),
			"RUN: with its variables replaced the recipe"},
		"words of one line": {nil, "FROM scratch\nLABEL" + strings.Repeat(" a=b", 5000) + "\n",
			":2: LABEL: there are more than 4096 words"},
		"JSON words": {nil, "FROM scratch\nVOLUME [" + strings.Repeat(`"/a",`, 5000) + "\"/b\"]\n",
			":2: VOLUME: there are more than 4096 words"},
		"variables": {nil, "FROM scratch\n" + numbered(2000, "ENV a%d=b"),
			"ENV: there are more than 1024 variables"},
		"arguments": {nil, "FROM scratch\n" + numbered(2000, "ARG a%d=b"),
			"ARG: there are more than 1024 arguments"},
		"instructions": {nil, "FROM scratch\n" + strings.Repeat("ENV a=b\n", 5000),
			":4097: ENV: with the files that are included there are more than 4096 instructions"},
		"requests": {nil, "FROM scratch\n" + numbered(600, "PARAM A%d"),
			":514: PARAM: the image describes more than 512"},
		"volumes": {nil, "FROM scratch\n" + numbered(600, "VOLUME /v%d"),
			":130: VOLUME: Volumes: 129 paths: at most 128 are allowed"},
		"pattern": {nil, "FROM scratch\nPARAM A pattern=" + strings.Repeat("a*", 1000) + "\n",
			":2: PARAM: the pattern has more than"},
		"a long line": {nil, "FROM scratch\nRUN " + strings.Repeat("x", 1<<20) + "\n",
			":2: the line has more than 131072 bytes"},
		"continued lines": {nil, "FROM scratch\nRUN x \\\n" + strings.Repeat(strings.Repeat("x", 1000)+" \\\n",
			500) + "y\n", ":133: the instruction has more than 131072 bytes"},
		"a long file": {nil, "FROM scratch\n" + strings.Repeat("# "+strings.Repeat("x", 1000)+"\n", 2000),
			"the file has more than 1048576 bytes"},
		"a heredoc": {nil, "FROM scratch\nUSAGE <<EOF\n" +
			strings.Repeat(strings.Repeat("x", 1000)+"\n", 2000), "the file has more than 1048576 bytes"},
		"a heredoc with no end": {nil, "FROM scratch\nUSAGE <<EOF\n" + strings.Repeat("x\n", 1000),
			":2: USAGE: the text after <<EOF has no end"},
		"mistakes":         {nil, "FROM scratch\n" + strings.Repeat("FROB x\n", 100000), "more than 100 errors"},
		"planned mistakes": {nil, "FROM scratch\n" + strings.Repeat("ENV x\n", 4000), "more than 100 errors"},
		"stages": {nil, "FROM scratch AS a\n" + strings.Repeat("FROM a AS a\n", 4000),
			"more than 100 errors"},
		"INCLUDE of itself": {files{"a": "INCLUDE a\n"}, "FROM scratch\nINCLUDE a\n",
			"/a:1: INCLUDE: files include each other more than 16 deep"},
		"INCLUDE by a link": {files{"a": "INCLUDE b\nINCLUDE b\n", "b": "-> a"}, "FROM scratch\nINCLUDE a\n",
			"INCLUDE: more than 256 files are included"},
		"INCLUDE twice": {files{"a": "INCLUDE a\nINCLUDE a\n"}, "FROM scratch\nINCLUDE a\n",
			"INCLUDE: more than 256 files are included"},
		"INCLUDE fans out": {fan(9), "FROM scratch\nINCLUDE f0\n", "INCLUDE: more than 256 files are included"},
		"INCLUDE of much": {files{"a": strings.Repeat("# "+strings.Repeat("x", 1000)+"\n", 900) + "ENV a=b\n"},
			"FROM scratch\n" + strings.Repeat("INCLUDE a\n", 10),
			":6: INCLUDE: with the files that are included there are more than 4194304 bytes"},
		"templates": {files{"t/Bastillefile": "ARG A\nINCLUDE t --arg A=${A}${A}\nINCLUDE t\n"},
			"FROM scratch\nINCLUDE t --arg A=x\n", "INCLUDE: files include each other more than 16 deep"},
		"arguments that double": {chain(14), "FROM scratch\nARG A=" + strings.Repeat("x", 1000) +
			"\nINCLUDE t0 --arg A=${A}${A}\n", "Bastillefile:2: INCLUDE: with its variables"},
		"RENDER doubles": {files{"f": "${v00}\n"}, "FROM scratch\nCOPY f /\n" + literal(40) + "RENDER /f\n",
			"/f becomes larger than"},
		"RENDER multiplies": {files{"f": strings.Repeat("${v0}", 1000)}, "FROM scratch\nCOPY f /\nENV v0=" + long +
			"\nRENDER /f\n", ":4: RENDER: /f becomes larger than"},
		"RENDER of many": {many(100, strings.Repeat("${v0}", 20)), "FROM scratch\nCOPY . /\nENV v0=" + long +
			"\nRENDER /\n", ":4: RENDER: the files that change have more than"},
		"ignored": {files{".jailignore": numbered(5000, "x%d")}, "FROM scratch\n",
			".jailignore:4097: there are more than 4096 patterns"},
		"an ignored pattern": {files{".jailignore": "\n" + strings.Repeat("*a", 500)}, "FROM scratch\n",
			".jailignore:2: the pattern has more than 256 bytes"},
		"much ignored": {files{".jailignore": strings.Repeat("#\n", 1<<20)}, "FROM scratch\n",
			".jailignore has more than 262144 bytes"},
		"a command": {files{"Bastillefile": "ARG A=" + long + "\nCMD ${A}${A}\n"}, "",
			"Bastillefile:2: CMD: with its variables"},
		"packages": {files{"Bastillefile": "ARG A=" + long + "\n" + strings.Repeat("PKG ${A}\n", 1000)},
			"", "PKG: with its variables replaced the recipe"},
		"rendered": {files{"Bastillefile": numbered(1000, "ARG A%d=x") +
			strings.Repeat("RENDER /x\n", 3000)}, "", "RENDER: with its variables replaced the recipe"},
	} {
		t.Run(name, func(t *testing.T) {
			before := allocated()
			_, err := tryRecipe(t, c.context, c.recipe)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%.2000v, want %s", err, c.want)
			}
			if n := len(err.Error()); n > 1<<20 {
				t.Errorf("the error has %d bytes", n)
			}
			if used := allocated() - before; used > 2<<30 {
				t.Errorf("it cost %d MiB", used>>20)
			}
		})
	}
}

// allocated is what was ever allocated: live memory is no more than that.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// tryRecipe builds without executing anything.
func tryRecipe(t *testing.T, context files, recipe string) (*made, error) {
	r := func(o *Options) {
		o.Platform = ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
		o.Runner = func(string) (Runner, error) { return &recorder{}, nil }
		if recipe == "" {
			check(t, os.Remove(filepath.Join(o.Context, "Jailfile")))
			o.From = "scratch"
		}
	}
	return try(t, context, recipe, r)
}

// fan are files of which each includes the next one twice.
func fan(n int) files {
	out := files{fmt.Sprint("f", n): "ENV a=b\n"}
	for i := range n {
		out[fmt.Sprint("f", i)] = strings.Repeat(fmt.Sprint("INCLUDE f", i+1, "\n"), 2)
	}
	return out
}

// chain are templates of which each gives the next one twice what it got.
func chain(n int) files {
	out := files{fmt.Sprintf("t%d/Bastillefile", n): "ARG A=\n"}
	for i := range n {
		out[fmt.Sprintf("t%d/Bastillefile", i)] = fmt.Sprintf("ARG A=\nINCLUDE t%d --arg A=${A}${A}\n", i+1)
	}
	return out
}

// literal are arguments that RENDER replaces by each other.
func literal(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "ARG v%02d='${v%02d}${v%02d}'\n", i, i+1, i+1)
	}
	return b.String()
}

func many(n int, text string) files {
	out := files{}
	for i := range n {
		out[fmt.Sprint("d/f", i)] = text
	}
	return out
}

// FuzzRecipe plans what files that include each other say, and wants what comes
// of it to stay within the limits.
func FuzzRecipe(f *testing.F) {
	f.Add("FROM scratch\nARG a=xx\nARG b=$a$a\nINCLUDE part\nRUN $b\n", "ENV c=${b:-x}\nINCLUDE part\n")
	f.Add("FROM scratch AS x\nFROM x\nINCLUDE t --arg A=${A}${A}\n",
		"RENDER /x\nVOLUME /a /b name=c\nUSAGE <<E\nx\nE\n")
	dir := f.TempDir()
	for _, d := range []string{"t"} {
		check(f, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	f.Fuzz(func(t *testing.T, recipe, part string) {
		files{"Jailfile": recipe, "part": part, "t/Bastillefile": part}.write(t, dir)
		b := newBuilder(Options{Context: dir})
		var err error
		b.context, err = os.OpenRoot(dir)
		check(t, err)
		defer b.context.Close()
		file, err := b.readRecipe(t.Context())
		if err != nil {
			return
		}
		if len(file.Instructions) > maxInstructions {
			t.Errorf("%d instructions", len(file.Instructions))
		}
		p := &planner{file: file, base: func(string, ocispec.Platform) (*image.Image, error) {
			return nil,
				errors.New("none")
		}}
		if err := p.plan(t.Context()); err != nil {
			return
		}
		for _, s := range p.needed {
			for _, v := range s.vars {
				if len(v) > maxLine+1024 {
					t.Errorf("a variable of %d bytes", len(v))
				}
			}
		}
		if p.cost > maxEvaluated {
			t.Errorf("%d bytes were evaluated", p.cost)
		}
		if _, err := p.imageConfig(); err != nil {
			t.Errorf("a plan without faults makes no config: %v", err)
		}
	})
}

// A recipe is not evaluated for somebody who has gone.
func TestPlanEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	file, err := Parse("J", strings.NewReader("FROM scratch\n"+numbered(1000, "ENV a%d=$x")))
	check(t, err)
	p := &planner{file: file}
	if err := p.plan(ctx); !errors.Is(err, context.Canceled) || strings.Count(err.Error(), "\n") > 0 {
		t.Error(err)
	}
}
