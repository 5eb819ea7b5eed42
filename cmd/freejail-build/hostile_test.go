package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/testtext"
)

// hostileImage has text in every string that an image has: sly in its manifest,
// which may have no control characters, and text elsewhere.
func hostileImage(t *testing.T, path, name, text, sly string) {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, file := range []string{"etc/", "etc/" + name + strings.ReplaceAll(text, "/", "_"), "bin"} {
		h := &tar.Header{Name: file, Mode: 0o755, Typeflag: tar.TypeReg}
		if strings.HasSuffix(file, "/") {
			h.Typeflag = tar.TypeDir
		}
		check(t, w.WriteHeader(h))
	}
	check(t, w.Close())
	tag := []string{sly}
	manifest, err := json.Marshal(image.Manifest{SchemaVersion: 1, Summary: sly, Usage: "# Use\n\n" + sly,
		Parameters: []image.Parameter{{Name: "WORD", Description: sly, Default: &sly}},
		Ports: []image.Port{{Name: "http", Port: 80, Protocol: "tcp", Description: sly,
			Service: &image.Service{Tags: []string{"one"}, Check: &image.Check{Type: "http", Path: "/"}}}},
		Requires: image.Requires{Devfs: tag, Jail: map[string]string{"children.max": strings.ReplaceAll(sly, "\n", "")},
			Mounts: []image.MountRequest{{Type: "tmpfs", Target: "/x" + strings.ReplaceAll(sly, "\n", "")}}},
		Volumes: []image.Volume{{Name: "data", Path: "/d" + strings.ReplaceAll(sly, "\n", ""), Description: sly}}})
	check(t, err)
	cfg := ocispec.Image{Author: text, Platform: ocispec.Platform{OS: "freebsd", Architecture: "amd64"},
		Config: ocispec.ImageConfig{
			User: text, Env: []string{"A=" + text, text}, Entrypoint: []string{text}, Cmd: []string{name, text},
			WorkingDir: "/" + text, StopSignal: "TERM",
			ExposedPorts: map[string]struct{}{text: {}}, Volumes: map[string]struct{}{text: {}},
			Labels: map[string]string{text: text, image.ManifestLabel: string(manifest)}}}
	cfg.History = []ocispec.History{{CreatedBy: text, Author: text, Comment: text}}
	cfg.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer.Bytes())}}
	store, err := layout.OpenStore(t.TempDir(), image.Limits{})
	check(t, err)
	d, err := store.Add(t.Context(), ocispec.MediaTypeImageLayer, &layer)
	check(t, err)
	_, err = store.Put(t.Context(), name, cfg, []ocispec.Descriptor{d}, map[string]string{"note": text})
	check(t, err)
	f, err := os.Create(path)
	check(t, err)
	check(t, errors.Join(store.Export(t.Context(), name, f), f.Close(), store.Close()))
}

// hostileRegistry answers all with text, as a document, an error, or a realm.
func hostileRegistry(t *testing.T, text string) string {
	t.Helper()
	// as headers can be
	oneLine := strings.NewReplacer("\r", "", "\n", "", "\x1b", "", "\a", "", "\b", "", "\x7f", "").Replace(text)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		errs, err := json.Marshal(
			map[string]any{"errors": []map[string]string{{"code": text, "message": text, "detail": text}}})
		check(t, err)
		w.Header().Set("Content-Type", "text/"+oneLine)
		w.Header().Set("Docker-Content-Digest", oneLine)
		switch {
		case strings.Contains(r.URL.Path, "realm"):
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+"/"+oneLine+`",service="`+oneLine+`"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, "plain"):
			w.WriteHeader(http.StatusBadRequest)
			_, err = io.WriteString(w, text)
			check(t, err)
			return
		case strings.Contains(r.URL.Path, "manifest"):
		default:
			w.WriteHeader(http.StatusBadRequest)
		}
		_, err = w.Write(errs)
		check(t, err)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// outputs are, for each command, the arguments that make it print all it can.
// Names in capitals stand for what setUpHostile makes. A command that is not here
// is an error.
var outputs = map[string][][]string{
	"freejail-build": {{"--help"}, {"TEXT"}, {"--TEXT"}},
	"freejail-build build": {{"-o", "OUT", "CONTEXT"}, {"-o", "OUT", "-f", "CONTEXT/Bad", "CONTEXT"},
		{"-o", "OUT", "-f", "TEXT", "CONTEXT"}, {"-o", "OUT", "-f", "CONTEXT/From", "--plain-http", "REGISTRY",
			"CONTEXT"}, {"--build-arg", "TEXT", "-o", "OUT", "CONTEXT"}, {"--compression", "TEXT", "-o", "OUT", "CONTEXT"}},
	"freejail-build cache":       {{"--help"}},
	"freejail-build cache prune": {{}, {"--cache", "TEXT"}, {"--keep", "TEXT"}},
	"freejail-build login":       {{"TEXT"}, {"-u", "TEXT", "-p", "TEXT", "REGISTRY"}, {"REGISTRY"}},
	"freejail-build logout":      {{"TEXT"}, {"--auth-file", "TEXT", "REGISTRY"}},
	"freejail-build import": {{"-o", "OUT", "TEXT"}, {"-o", "OUT", "--digest", "TEXT", "IMAGE"},
		{"-o", "OUT", "CONTEXT/Jailfile"}},
	"freejail-build inspect": {{"IMAGE"}, {"--json", "IMAGE"}, {"TEXT"}, {"CONTEXT"},
		{"--plain-http", "REGISTRY", "REGISTRY/manifest/x:1"}, {"--platform", "TEXT", "IMAGE"}},
	"freejail-build history":  {{"IMAGE"}, {"--json", "IMAGE"}},
	"freejail-build diff":     {{"IMAGE", "OTHER"}, {"--json", "IMAGE", "OTHER"}, {"IMAGE", "TEXT"}},
	"freejail-build validate": {{"IMAGE"}, {"--json", "IMAGE"}, {"BROKEN"}, {"--json", "BROKEN"}},
	"freejail-build schema":   {{}, {"TEXT"}},
	"freejail-build unpack":   {{"IMAGE", "TEXT/x/y"}, {"BROKEN", "OUT"}},
	"freejail-build pull": {{"-o", "OUT", "--plain-http", "REGISTRY", "REGISTRY/plain/x:1"}, {"-o", "OUT",
		"--plain-http", "REGISTRY", "REGISTRY/realm/x:1"}, {"-o", "OUT", "--plain-http", "REGISTRY",
		"REGISTRY/manifest/x:1"}, {"-o", "OUT", "TEXT"}},
	"freejail-build push": {{"--plain-http", "REGISTRY", "IMAGE", "REGISTRY/plain/x:1"},
		{"TEXT", "REGISTRY/x:1"}, {"IMAGE", "TEXT"}},
	"freejail-build copy": {{"oci-archive:IMAGE", "oci:TEXT"}, {"TEXT", "TEXT"},
		{"--plain-http", "REGISTRY", "REGISTRY/realm/x:1", "oci:OUT"}},
	"freejail-build serve": {{"--listen", "TEXT", "OUT"}, {"--max-blob", "TEXT", "OUT"},
		{"--htpasswd", "TEXT", "OUT"}},
	"freejail-build keygen": {{"--plain", "-o", "TEXT/x"}},
	"freejail-build sign":   {{"--key", "TEXT", "IMAGE"}, {"--key", "CONTEXT/Jailfile", "IMAGE"}},
	"freejail-build verify": {{"--key", "TEXT", "IMAGE"}, {"--key", "CONTEXT/Jailfile", "--plain-http", "REGISTRY",
		"REGISTRY/x:1"}},
	"freejail-build approvals": {{"IMAGE"}, {"--json", "IMAGE"}, {"--key", "TEXT", "IMAGE"},
		{"--plain-http", "REGISTRY", "REGISTRY/manifest/x:1"}, {"TEXT"}},
	"freejail-build sign-blob":   {{"--key", "TEXT", "IMAGE"}, {"--key", "CONTEXT/Jailfile", "IMAGE"}},
	"freejail-build verify-blob": {{"--key", "TEXT", "IMAGE"}, {"--key", "CONTEXT/Jailfile", "TEXT"}},
	"freejail-build version":     {{}, {"TEXT"}},
}

// setUpHostile makes what the arguments name, with a text in it.
func setUpHostile(t *testing.T, text, sly string) *strings.Replacer {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	hostileImage(t, at("image.tar"), "image", text, sly)
	hostileImage(t, at("other.tar"), "other", "x"+text, "x"+sly)
	b, err := os.ReadFile(at("image.tar"))
	check(t, err)
	check(t, os.WriteFile(at("broken.tar"), bytes.Replace(b, []byte("freebsd"), []byte("fre\x1bsd!"), 1), 0o600))
	registry := hostileRegistry(t, text)
	check(t, os.Mkdir(at("context"), 0o700))
	name := strings.ReplaceAll(text, "/", "")
	quoted := strings.ReplaceAll(strings.ReplaceAll(text, "\n", ""), "\r", "")
	for file, content := range map[string]string{name: "x", "Jailfile": "FROM scratch\nNAME web\nCOPY . /\nENV A=\"" +
		quoted + "\"\nLABEL b=\"" + quoted + "\"\nCMD [\"x\"]\n",
		"Bad": "FROM scratch\nCOPY \"" + quoted + "/nothere\" /\n" + quoted + "\n", "From": "FROM " + registry +
			"/plain/x:1\n"} {
		check(t, os.WriteFile(at("context/"+file), []byte(content), 0o600))
	}
	return strings.NewReplacer("TEXT", text, "OUT", at("out.tar"), "CONTEXT", at("context"), "IMAGE", at("image.tar"),
		"OTHER", at("other.tar"),
		"BROKEN", at("broken.tar"), "REGISTRY", registry)
}

// TestNoOutputLies runs every command on images, files, registries and arguments
// with hostile text in every field: nothing that steers a terminal or hides comes
// out, and there are as many lines as for harmless text.
func TestNoOutputLies(t *testing.T) {
	t.Chdir(t.TempDir())
	bad := setUpHostile(t, testtext.Hostile, testtext.Sly)
	good := setUpHostile(t, testtext.Harmless, "evil\nFORGED\nallowed")
	root := (&commands{app.New("freejail-build", "", nil, nil)}).root()
	for name, rows := range outputs {
		words := strings.Fields(name)[1:]
		if c, _, err := root.Find(words); err == nil && c.Flags().Lookup("progress") != nil {
			words = append(words, "--progress=none") // a slow host has lines of it
		}
		for _, row := range rows {
			args := slices.Concat(words, row)
			var texts [2]string
			var codes [2]int
			for i, r := range []*strings.Replacer{bad, good} {
				var out, messages string
				codes[i], out, messages = call(t, replaced(r, args)...)
				check(t, errors.Join(os.RemoveAll(r.Replace("OUT")), os.RemoveAll(r.Replace("TEXT"))))
				texts[i] = out + messages
			}
			if r, steers := testtext.Steers(texts[0]); steers || testtext.Forged(texts[0]) {
				t.Errorf("%q: %q or a forged line comes out:\n%s", args, r, texts[0])
			}
			if strings.Count(texts[0], "\n") != strings.Count(texts[1], "\n") || codes[0] != codes[1] {
				t.Errorf("%q: exit code %d, harmless %d\n%s\nharmless:\n%s", args, codes[0], codes[1], texts[0],
					texts[1])
			}
			if slices.Contains(args, "--json") && !json.Valid([]byte(texts[0])) {
				t.Errorf("%q: no JSON:\n%s", args, texts[0])
			}
		}
	}
}

func replaced(r *strings.Replacer, args []string) (out []string) {
	for _, a := range args {
		out = append(out, r.Replace(a))
	}
	return out
}

// Each command has a row in the table of outputs.
func TestEveryOutputIsTried(t *testing.T) {
	seen := map[string]bool{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		seen[c.CommandPath()] = true
		if _, there := outputs[c.CommandPath()]; !there {
			t.Errorf("what %q prints is not tried with hostile text: give it a row in outputs", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&commands{app.New("freejail-build", "", nil, nil)}).root())
	for name := range outputs {
		if !seen[name] {
			t.Error(fmt.Errorf("there is no command %q", name))
		}
	}
}
