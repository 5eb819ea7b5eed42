package build

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
)

const twoStages = `ARG VERSION=1
FROM scratch AS make
ADD x.tar /opt/
COPY --chmod=0640 --chown=7:8 src/prog /out/prog
ENV KEPT=no
FROM scratch AS unused
COPY is-not-there /
USER a b
FROM scratch
ARG VERSION
LABEL version=$VERSION
COPY --from=make /out/prog /bin/prog
COPY --from=0 /opt /o
`

// Files of a stage keep their owners and modes, and hard links stay one file.
func TestStages(t *testing.T) {
	context := files{"x.tar": tarOf(t, someTar...), "src/prog": "#!p"}
	m := make1(t, context, twoStages)
	m.want(0, "5 bin/ 755 0:0", "0 bin/prog 640 7:8")
	m.want(1, "5 o/ 755 0:0", "5 o/bin/ 750 1:2", "0 o/bin/hard 4755 3:4", "1 o/bin/prog 4755 3:4 -> o/bin/hard",
		"5 o/deep/ 755 0:0", "5 o/deep/er/ 755 0:0", "0 o/deep/er/f 644 0:0", "2 o/sh 777 0:0 -> bin/prog")
	m.has("o/deep/er/f", "text")
	m.has("o/bin/hard", "program")
	if len(m.img.Config.Config.Env) > 0 || m.img.Config.Config.Labels["version"] != "1" || len(m.img.Layers) != 2 {
		t.Errorf("%+v", m.img.Config)
	}
	m, err := try(t, context, twoStages, func(o *Options) { o.Target = "Make" })
	check(t, err)
	if !slices.Equal(m.img.Config.Config.Env, []string{"KEPT=no"}) || len(m.img.Layers) != 2 {
		t.Errorf("%+v", m.img.Config)
	}
	for target, want := range map[string]string{"none": `no such stage "none"; the stages are 0 (make), 1 (unused), 2`,
		"9": `no such stage "9"`, "unused": "Jailfile:8: USER"} {
		if _, err := try(t, context, twoStages, func(o *Options) { o.Target = target }); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", target, err)
		}
	}
}

func TestAStageFromAnother(t *testing.T) {
	m := make1(t, files{"a": "1", "b": "2"}, "FROM scratch AS base\nNAME x\nENV A=1\nPORT http 80\nCOPY a /\nFROM "+
		"base AS next\nCOPY b /\nENV B=$A\nFROM next\nARG TARGETPLATFORM BUILDOS\nLABEL p=$TARGETPLATFORM b=$BUILDOS\n")
	m.has("a", "1")
	m.has("b", "2")
	if len(m.img.Manifest.Ports) != 1 || !slices.Equal(m.img.Config.Config.Env, []string{"A=1", "B=1"}) ||
		m.img.Config.Config.Labels["p"] != "freebsd/amd64" {
		t.Errorf("%+v", m.img.Config)
	}
	layers := 0
	for _, h := range m.img.Config.History {
		if !h.EmptyLayer {
			layers++
		}
	}
	if layers != 2 || len(m.img.Config.History) != 7 {
		t.Errorf("%+v", m.img.Config.History)
	}
}

// Whatever lies above a file in a later layer, COPY --from takes what a process
// in the image would see.
func TestCopyFromLayers(t *testing.T) {
	from := base(t, files{"d/f": "old", "d/h": "kept", "e/f": "new", "s/l": "-> /d"},
		"FROM scratch\nCOPY d /d/\nCOPY e /d/\nCOPY s /\n")
	m := make1(t, files{}, "FROM scratch\nCOPY --from="+from+" /l/f l/h /x/\nCOPY --from="+from+
		" /d/? /y/\nCOPY --from="+from+" / /all/\n")
	m.want(0, "5 x/ 755 0:0", "0 x/f 644 0:0", "0 x/h 644 0:0")
	m.want(1, "5 y/ 755 0:0", "0 y/f 644 0:0", "0 y/h 644 0:0")
	m.want(2, "5 all/ 755 0:0", "5 all/d/ 755 0:0", "0 all/d/f 644 0:0", "0 all/d/h 644 0:0", "2 all/l 777 0:0 -> /d")
	m.has("x/f", "new")
	m.has("y/h", "kept")
	m.has("all/d/f", "new")
	for line, want := range map[string]string{
		"COPY --from=" + from + " /none /":   "no such file or directory",
		"COPY --from=" + from + " /d/z* /":   "matches",
		"COPY --from=" + from + " /../e /x/": "no such file or directory",
		"COPY --from=nobody /a /":            "no earlier stage has this name",
		"COPY --from=$X /a /":                "variables are not supported here",
		"COPY --from=me /a /":                "cannot copy from itself",
		"COPY --from=0 /a /":                 "cannot copy from itself",
		"COPY --from=1 /a /":                 "no earlier stage",
	} {
		fails(t, files{}, "FROM scratch AS me\n"+line+"\n", 2, want)
	}
}

func TestFaultsOfStages(t *testing.T) {
	for text, want := range map[string]string{
		"FROM scratch AS a\nFROM scratch AS A\n":       "Jailfile:2: FROM: stage a already exists",
		"FROM scratch AS 1\n":                          "Jailfile:1: FROM: \"1\" is not a valid name of a stage",
		"FROM scratch as\n":                            "Jailfile:1: FROM: invalid argument \"scratch as\"",
		"FROM scratch AS a b\n":                        "invalid argument",
		"FROM $X\n":                                    "the variable X has no value here",
		"FROM --platform=linux scratch\n":              "want OS/ARCHITECTURE",
		"FROM scratch AS a\nUSER x y\nFROM a\nENV B\n": "Jailfile:2: USER",
		"FROM gone.tar AS a\nFROM scratch AS b\nCOPY --from=a x /\nENV C": "Jailfile:1: FROM: ",
	} {
		if _, err := try(t, files{}, text, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	_, err := try(t, files{}, "FROM scratch AS a\nUSER x y\nFROM a\nENV B\n", nil)
	if err == nil || !strings.Contains(err.Error(), "Jailfile:4: ENV") {
		t.Errorf("not all faults are told: %v", err)
	}
}

func TestPull(t *testing.T) {
	s, err := layout.OpenStore(t.TempDir(), image.Limits{})
	check(t, err)
	_, err = try(t, files{"f": "1"}, "FROM scratch\nCOPY f /\n", func(o *Options) { o.Store, o.Tag = s, "there" })
	check(t, err)
	asked := ""
	pull := func(o *Options) {
		o.Store = s
		o.Tag = "out"
		o.Pull = func(_ context.Context, into *layout.Store, ref string, p ocispec.Platform) (*image.Image, error) {
			if asked = ref; ref == "registry.example/refused:1" {
				return nil, errors.New("refused")
			}
			return into.Get("there")
		}
	}
	m, err := try(t, files{}, "FROM registry.example/x:tag\nENV A=b\n", pull)
	check(t, err)
	m.has("f", "1")
	if asked != "registry.example/x:tag" {
		t.Error(asked)
	}
	if _, err := try(t, files{}, "FROM registry.example/refused:1\n", pull); err == nil ||
		!strings.Contains(err.Error(), "Jailfile:1: FROM: refused") {
		t.Error(err)
	}
	if _, err := try(t, files{}, "FROM registry.example/x:tag\n", nil); err == nil {
		t.Error("a reference without anything to pull it")
	}
}
