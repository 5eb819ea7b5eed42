package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// call runs the command line.
func call(t *testing.T, args ...string) (code int, out, messages string) {
	t.Helper()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	var o, m bytes.Buffer
	code = run(t.Context(), args, &o, &m)
	return code, o.String(), m.String()
}

func ok(t *testing.T, args ...string) string {
	t.Helper()
	code, out, messages := call(t, args...)
	if code != 0 {
		t.Fatalf("%q: exit code %d: %s", args, code, messages)
	}
	return out
}

const jailfile = `ARG WHAT=nothing
FROM scratch
NAME web
SUMMARY A small web server
COPY prog /bin/prog
ENV WHAT=$WHAT
PORT http 8080/tcp service=pages tags=a check=http:/healthz description="the pages"
PARAM GREETING default=hello description="what it says"
DEVFS path 'bpf*' unhide
VOLUME /data name=data required
USAGE <<EOF
# Web
EOF
ENTRYPOINT ["/bin/prog"]
`

func setup(t *testing.T, text string) (dir, out string) {
	t.Helper()
	dir = t.TempDir()
	t.Setenv("TMPDIR", t.TempDir())
	check(t, os.WriteFile(filepath.Join(dir, "Jailfile"), []byte(text), 0o644))
	check(t, os.WriteFile(filepath.Join(dir, "prog"), []byte("#!x"), 0o755))
	t.Cleanup(func() {
		left, err := os.ReadDir(os.Getenv("TMPDIR"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v %v", left, err)
		}
	})
	return dir, filepath.Join(t.TempDir(), "image.tar")
}

func TestBuildAndLook(t *testing.T) {
	dir, out := setup(t, jailfile)
	printed := ok(t, "build", "-o", out, "--platform", "freebsd/arm64", "--build-arg", "WHAT=a=b", dir)
	var got struct {
		Name, Digest string
		Config       ocispec.Image
		Manifest     image.Manifest
		Layers       []ocispec.Descriptor
	}
	check(t, json.Unmarshal([]byte(ok(t, "inspect", "--json", out)), &got))
	if got.Name != "web" || got.Digest+"\n" != printed || got.Config.Architecture != "arm64" ||
		got.Config.Config.Env[0] != "WHAT=a=b" ||
		got.Manifest.Ports[0].Service.Name != "pages" || len(got.Layers) != 1 {
		t.Errorf("%+v, build printed %q", got, printed)
	}
	page := ok(t, "inspect", out)
	for _, want := range []string{"A small web server", "freebsd/arm64", "# Web", "GREETING", `default "hello"`,
		"what it says", "8080/tcp", "service pages [a], check http /healthz",
		"path 'bpf*' unhide", "/data", "required", "COPY prog /bin/prog", got.Digest} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if got := ok(t, "validate", out); got != "no faults found\n" {
		t.Error(got)
	}
	root := filepath.Join(t.TempDir(), "root")
	ok(t, "unpack", out, root)
	if b, err := os.ReadFile(filepath.Join(root, "bin/prog")); err != nil || string(b) != "#!x" {
		t.Errorf("%q %v", b, err)
	}
	if code, _, messages := call(t, "unpack", out, root); code != app.Failed ||
		!strings.Contains(messages, "not empty") {
		t.Errorf("%d %s", code, messages)
	}
}

func TestTimeOfTheEnvironment(t *testing.T) {
	dir, out := setup(t, jailfile)
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	ok(t, "build", "-q", "-o", out, dir)
	if page := ok(t, "inspect", out); !strings.Contains(page, "2023-11-14T22:13:20Z") {
		t.Error(page)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "soon")
	if code, _, messages := call(t, "build", "-o", out, dir); code != app.Usage ||
		!strings.Contains(messages, "SOURCE_DATE_EPOCH") {
		t.Errorf("%d %s", code, messages)
	}
}

func TestStore(t *testing.T) {
	dir, out := setup(t, jailfile)
	store := filepath.Join(t.TempDir(), "store")
	ok(t, "build", "--store", store, dir)
	check(t, os.WriteFile(filepath.Join(dir, "Child"), []byte("FROM web\nNAME child\n"), 0o644))
	ok(t, "build", "--store", store, "-f", filepath.Join(dir, "Child"), "-t", "child:1.0", "-o", out, dir)
	if page := ok(t, "inspect", out); !strings.Contains(page, "child:1.0") || !strings.Contains(page, "8080/tcp") {
		t.Error(page)
	}
}

func TestExitCodes(t *testing.T) {
	dir, out := setup(t, jailfile)
	for _, c := range []struct {
		want int
		text string
		args []string
	}{
		{app.Usage, `unknown command "bulid" (did you mean build?)`, []string{"bulid"}},
		{app.Usage, "unknown flag", []string{"build", "--frob"}},
		{app.Usage, "usage: freejail-build build [flags] -o IMAGE DIRECTORY", []string{"build", "-o", out}},
		{app.Usage, "-o IMAGE.tar", []string{"build", dir}},
		{app.Usage, "-o IMAGE.tar", []string{"import", dir}},
		{app.Usage, "OS/ARCHITECTURE", []string{"build", "-o", out, "--platform", "freebsd", dir}},
		{app.Usage, "expected host or none", []string{"build", "-o", out, "--network", "x", dir}},
		{app.Usage, "expected gzip, zstd or zstd:chunked", []string{"build", "-o", out, "--compression", "xz", dir}},
		{app.Usage, "expected gzip, zstd or zstd:chunked", []string{"import", "-o", out, "--compression", "", dir}},
		{app.Usage, "expected NAME=VALUE", []string{"build", "-o", out, "--build-arg", "=b", dir}},
		{app.Usage, "usage: freejail-build validate IMAGE", []string{"validate"}},
		{app.Usage, "usage: freejail-build unpack IMAGE DIRECTORY", []string{"unpack", out}},
		{app.Failed, "no ARG declares it", []string{"build", "-o", out, "--build-arg", "A=b", dir}},
		{app.Failed, "no such file", []string{"build", "-o", out, filepath.Join(dir, "none")}},
		{app.Failed, "no such file", []string{"inspect", filepath.Join(dir, "none")}},
		{app.Failed, "no such file", []string{"validate", filepath.Join(dir, "none")}},
		{app.Failed, "not an archive", []string{"import", "-o", out, filepath.Join(dir, "prog")}},
		{app.Failed, "not an OCI layout", []string{"inspect", dir}},
	} {
		code, printed, messages := call(t, c.args...)
		if code != c.want || !strings.Contains(messages, c.text) || printed != "" {
			t.Errorf("%q: exit code %d, %q %q, want %d and %s", c.args, code, printed, messages, c.want, c.text)
		}
	}
	if got := ok(t, "version"); got != "freejail-build dev\n" {
		t.Error(got)
	}
}

func TestImport(t *testing.T) {
	dir, out := setup(t, jailfile)
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	check(t, tw.WriteHeader(&tar.Header{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o755}))
	check(t, tw.WriteHeader(&tar.Header{Name: "./bin/sh", Mode: 0o555, Size: 2}))
	_, err := tw.Write([]byte("sh"))
	check(t, errorsOf(err, tw.Close()))
	check(t, os.WriteFile(filepath.Join(dir, "base.txz"), b.Bytes(), 0o644))
	ok(t, "import", "--name", "freebsd:15.1", "--platform", "freebsd/arm64", "-o", out, filepath.Join(dir, "base.txz"))
	page := ok(t, "inspect", out)
	if !strings.Contains(page, "freebsd:15.1") || !strings.Contains(page, "freebsd/arm64") ||
		!strings.Contains(page, "ADD base.txz /") {
		t.Error(page)
	}
	check(t, os.WriteFile(filepath.Join(dir, "Child"), []byte("FROM "+out+"\nCOPY prog /bin/\n"), 0o644))
	ok(t, "build", "-f", filepath.Join(dir, "Child"), "-o", out+"2", dir)
	ok(t, "validate", out+"2")
}

func errorsOf(list ...error) error {
	for _, err := range list {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestValidateNamesEveryFinding(t *testing.T) {
	_, out := setup(t, jailfile)
	dir := t.TempDir()
	s, err := layout.OpenStore(dir, image.Limits{})
	check(t, err)
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	check(t, tw.WriteHeader(&tar.Header{Name: "mem", Typeflag: tar.TypeChar}))
	check(t, tw.Close())
	d, err := s.Add(t.Context(), ocispec.MediaTypeImageLayer, bytes.NewReader(b.Bytes()))
	check(t, err)
	c := ocispec.Image{Platform: ocispec.Platform{OS: "freebsd", Architecture: "amd64"}}
	c.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(b.Bytes())}}
	c.Config.User, c.Config.Entrypoint = "nobody", []string{"/bin/none"}
	c.Config.Labels = map[string]string{
		image.ManifestLabel: `{"schemaVersion":1,"requires":{"devfs":["path 'x' frobnicate","include 4"]}}`}
	_, err = s.Put(t.Context(), "bad", c, []ocispec.Descriptor{d}, nil)
	check(t, err)
	f, err := os.Create(out)
	check(t, err)
	check(t, errorsOf(s.Export(t.Context(), "bad", f), f.Close()))
	code, printed, _ := call(t, "validate", out)
	for _, want := range []string{`entry "mem"`, `no user "nobody"`, `"/bin/none" is not in the image`,
		"requires.devfs[0]", "requires.devfs[1]"} {
		if !strings.Contains(printed, want) {
			t.Errorf("no finding %q in\n%s", want, printed)
		}
	}
	if n := strings.Count(printed, "\n"); code != app.Failed || n != 5 {
		t.Errorf("exit code %d, %d findings:\n%s", code, n, printed)
	}
	var found []image.Finding
	code, printed, _ = call(t, "validate", "--json", out)
	check(t, json.Unmarshal([]byte(printed), &found))
	if code != app.Failed || len(found) != 5 || found[0].Code != "layer-entry" || found[0].Severity != image.Error {
		t.Errorf("exit code %d, %v", code, found)
	}
	// What cannot even be imported is a finding too.
	b2, err := os.ReadFile(out)
	check(t, err)
	check(t, os.WriteFile(out, bytes.Replace(b2, []byte("frobnicate"), []byte("frobnicatE"), 1), 0o644))
	if code, printed, _ := call(t, "validate", out); code != app.Failed || !strings.Contains(printed, "blob-digest") ||
		!strings.Contains(printed, "digest mismatch") {
		t.Errorf("%d %s", code, printed)
	}
	check(t, os.WriteFile(out, []byte("no archive"), 0o644))
	if code, printed, _ := call(t, "validate", out); code != app.Failed || !strings.Contains(printed, "archive") {
		t.Errorf("%d %s", code, printed)
	}
}

func TestDiff(t *testing.T) {
	dir, out := setup(t, jailfile)
	second := out + "2"
	ok(t, "build", "-q", "-o", out, dir)
	if got := ok(t, "diff", out, out); got != "no difference\n" {
		t.Error(got)
	}
	text := strings.Replace(jailfile, "DEVFS path 'bpf*' unhide",
		"DEVFS path 'bpf*' unhide mode 660\nALLOW raw_sockets", 1)
	text = strings.Replace(text, "COPY prog /bin/prog", "COPY prog /bin/other\nCOPY --chmod=4755 prog /bin/prog", 1)
	text = strings.Replace(text, "8080/tcp", "8081/tcp", 1)
	check(t, os.WriteFile(filepath.Join(dir, "Jailfile"), []byte(text), 0o644))
	ok(t, "build", "-q", "-o", second, "--build-arg", "WHAT=x", dir)
	got := ok(t, "diff", out, second)
	last := -1
	for _, want := range []string{"REQUESTS", "+ devfs path 'bpf*' unhide mode 660", "+ allow raw_sockets",
		"+ port 8081/tcp", "- devfs path 'bpf*' unhide\n", "- port 8080/tcp",
		"CONFIG", `+ env "WHAT=x"`, `- env "WHAT=nothing"`, "FILES", "+ /bin/other  file, 3 bytes",
		"M /bin/prog  mode 0755 -> 4755"} {
		at := strings.Index(got, want)
		if at < last {
			t.Errorf("%q is not there, or not in its place, in\n%s", want, got)
		}
		last = at
	}
	var d difference
	check(t, json.Unmarshal([]byte(ok(t, "diff", "--json", second, out)), &d))
	if len(d.Requests.Removed) != 3 || len(d.Requests.Added) != 2 || len(d.Files) != 2 ||
		d.Files[0].Kind != "removed" || d.Files[0].Path != "/bin/other" {
		t.Errorf("%+v", d)
	}
	if got := ok(t, "diff", "--no-files", out, second); strings.Contains(got, "FILES") {
		t.Error(got)
	}
}

func TestHistory(t *testing.T) {
	dir, out := setup(t, jailfile)
	ok(t, "build", "-q", "-o", out, dir)
	page := ok(t, "history", out)
	for _, want := range []string{"CREATED", "1970-01-01T00:00:00Z", "COPY prog /bin/prog", "sha256:"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	var steps []step
	check(t, json.Unmarshal([]byte(ok(t, "history", "--json", out)), &steps))
	layers := 0
	for _, s := range steps {
		if s.Layer != nil {
			layers++
		}
	}
	if layers != 1 {
		t.Errorf("%d layers in %+v", layers, steps)
	}
	img := &image.Image{Layers: make([]ocispec.Descriptor, 2)}
	img.Config.History = []ocispec.History{{CreatedBy: "a"}, {CreatedBy: "b", EmptyLayer: true}}
	if got := history(img); len(got) != 3 || got[0].Layer == nil || got[1].Layer != nil || got[2].Layer == nil {
		t.Errorf("%+v", got)
	}
}

func TestSchema(t *testing.T) {
	if !json.Valid([]byte(ok(t, "schema"))) {
		t.Error("it is no JSON")
	}
}

// A secret is a file that ends, so a FIFO or a device is refused at once.
func TestASecretThatIsNoFile(t *testing.T) {
	dir, out := setup(t, "FROM scratch\n")
	fifo := filepath.Join(t.TempDir(), "fifo")
	check(t, syscall.Mkfifo(fifo, 0o600))
	for src, want := range map[string]string{fifo: "it is a FIFO", "/dev/zero": "it is a device",
		dir: "it is a directory"} {
		code, _, messages := call(t, "build", "-o", out, "--secret", "id=a,src="+src, dir)
		if code != app.Failed || !strings.Contains(messages, "--secret id=a: ") || !strings.Contains(messages, want) {
			t.Errorf("%s: %d %s", src, code, messages)
		}
	}
}

func TestInspectListsVolumesAndHealthcheck(t *testing.T) {
	dir, out := setup(t, "")
	check(t, errors.Join(os.Remove(filepath.Join(dir, "Jailfile")), os.WriteFile(filepath.Join(dir, "Containerfile"),
		[]byte("FROM scratch\nVOLUME /data\nHEALTHCHECK CMD [\"/check\"]\n"), 0o644)))
	ok(t, "build", "-o", out, dir)
	page, text := ok(t, "inspect", out), ok(t, "inspect", "--json", out)
	if !strings.Contains(page, `"/data"`) || !strings.Contains(page, `"/check"`) ||
		!strings.Contains(text, `"healthcheck"`) || !strings.Contains(text, `"/data"`) {
		t.Error(page, text)
	}
}

// A Jailfile can come by the standard input; its paths are the context's.
func TestAJailfileOfTheStandardInput(t *testing.T) {
	dir, out := setup(t, "FROM none\n")
	r := start(t, "build", "-f", "-", "-o", out, dir)
	_, err := io.WriteString(r.stdin, "FROM scratch\nCOPY prog /\nFROB x\n")
	check(t, errors.Join(err, r.stdin.Close()))
	r.until("stdin:3: unknown instruction")
	r = start(t, "build", "-q", "-f", "-", "-o", out, dir)
	_, err = io.WriteString(r.stdin, "FROM scratch\nCOPY prog /\n")
	check(t, errors.Join(err, r.stdin.Close(), r.cmd.Wait()))
	if page := ok(t, "inspect", out); !strings.Contains(page, "COPY prog /") {
		t.Error(page)
	}
}

// An image that not every host starts is valid, and said to be so.
func TestValidateTellsOfVNET(t *testing.T) {
	dir, out := setup(t, jailfile+"VNET\n")
	ok(t, "build", "-o", out, dir)
	if code, got, _ := call(t, "validate", out); code != 0 ||
		!strings.Contains(got, "vnet: manifest: requires.vnet: a task of the image starts on a network with a stack") {
		t.Errorf("exit code %d: %s", code, got)
	}
}

// What users of other tools type is answered with what does the same, by commands that are there.
func TestHints(t *testing.T) {
	a := &commands{app.New("freejail-build", "", io.Discard, io.Discard)}
	for word, hint := range instead {
		if c, _, err := a.root().Find([]string{word}); err == nil && c.HasParent() {
			t.Errorf("%q has a hint, and is a command", word)
		}
		code, _, messages := call(t, word, "x")
		if code != app.Usage || !strings.Contains(messages, hint) {
			t.Errorf("%s: %d %s", word, code, messages)
		}
	}
	for _, arg := range []string{"--version", "-v"} {
		if out := ok(t, arg); out != ok(t, "version") {
			t.Errorf("%s: %s", arg, out)
		}
	}
}
