package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/unpack"
)

// form is one that public Containerfiles have.
type form struct {
	name   string
	recipe string  // FROM base is busybox with a shell
	files  written // of the context
	flags  []string
	fails  string // in what freejail-build says, where neither builds it
	// differs says why buildah makes something else, or cannot build it: what
	// testdata has is by docker's documentation then.
	differs string
}

// written are files by name; one that ends in a slash is a directory.
type written map[string]string

func (f written) write(t *testing.T, dir string) {
	t.Helper()
	for name, text := range f {
		p := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			check(t, os.MkdirAll(p, 0o755))
			continue
		}
		check(t, os.MkdirAll(filepath.Dir(p), 0o755))
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		check(t, os.WriteFile(p, []byte(text), mode))
	}
}

// site is a context that many forms use.
var site = written{"index.html": "home\n", "css/a.css": "a\n", "css/b.css": "b\n", "css/deep/c.css": "c\n",
	"run.sh": "#!/bin/sh\necho run\n", "notes.txt": "n\n", "more.txt": "m\n"}

// TestContainerfiles builds forms of Containerfiles. What each makes is in
// testdata/containerfiles.txt, as buildah makes it; where buildah is installed
// it is asked again. FREEJAIL_RECORD=1 writes what buildah makes.
func TestContainerfiles(t *testing.T) {
	bin := os.Getenv("FREEJAIL_BUILD_BIN")
	if bin == "" {
		t.Skip("FREEJAIL_BUILD_BIN is not set: `make test` sets it")
	}
	need(t, "busybox")
	b := &formBuilder{T: t, bin: bin, cache: t.TempDir(), images: t.TempDir(), known: readKnown(t)}
	b.makeBase()
	if len(forms) < 60 {
		t.Errorf("there are %d forms", len(forms))
	}
	_, err := exec.LookPath("buildah")
	if err != nil {
		t.Logf("buildah is not installed, so only testdata is compared: %v", err)
	}
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			want, known := b.known[f.name]
			if err == nil && f.differs == "" && os.Getenv("FREEJAIL_SKIP_BUILDAH") == "" {
				his := b.byBuildah(t, f)
				if os.Getenv("FREEJAIL_RECORD") != "" {
					want, known, b.known[f.name] = his, true, his
				}
				if his != want {
					t.Errorf("buildah makes\n%s\ntestdata has\n%s", his, want)
				}
			}
			ours := b.byFreejail(t, f)
			if os.Getenv("FREEJAIL_RECORD") != "" && f.differs != "" {
				want, known, b.known[f.name] = ours, true, ours // for somebody to look at
			}
			if !known {
				t.Fatalf("testdata has no %q; freejail-build makes\n%s", f.name, ours)
			}
			if ours != want {
				t.Errorf("%s\nfreejail-build makes\n%s\nwant\n%s", f.recipe, ours, want)
			}
		})
	}
	if os.Getenv("FREEJAIL_RECORD") != "" {
		b.record()
	}
}

const knownFile = "testdata/containerfiles.txt"

// readKnown reads the results: after == NAME the lines of each.
func readKnown(t *testing.T) map[string]string {
	text, err := os.ReadFile(knownFile)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	out := map[string]string{}
	for part := range strings.SplitSeq("\n"+string(text), "\n== ") {
		name, result, has := strings.Cut(part, "\n")
		if has {
			out[name] = strings.Trim(result, "\n")
		}
	}
	return out
}

func (b *formBuilder) record() {
	var out strings.Builder
	for _, f := range forms {
		if text, has := b.known[f.name]; has {
			fmt.Fprintf(&out, "== %s\n%s\n", f.name, text)
		}
	}
	check(b.T, os.WriteFile(knownFile, []byte(out.String()), 0o644))
}

type formBuilder struct {
	*testing.T
	bin, base, cache string
	images           string // buildah's
	known            map[string]string
}

func (b *formBuilder) makeBase() {
	dir := b.TempDir()
	busybox, err := exec.LookPath("busybox")
	check(b.T, err)
	program, err := os.ReadFile(busybox)
	check(b.T, err)
	written{"Containerfile": "FROM scratch\nCOPY --chmod=0755 busybox /bin/busybox\n" +
		"RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nCOPY passwd group /etc/\n",
		"busybox": string(program), "passwd": "root:x:0:0::/root:/bin/sh\nweb:x:80:81::/srv:/bin/sh\n",
		"group": "wheel:x:0:\nweb:x:81:\nstaff:x:20:\n"}.write(b.T, dir)
	b.base = filepath.Join(dir, "base.tar")
	call(b.T, b.bin, "build", "-q", "--cache", b.cache, "-o", b.base, dir)
}

// context writes a form's files, and names its recipe.
func (b *formBuilder) context(t *testing.T, f form) (dir string) {
	dir = t.TempDir()
	f.files.write(t, dir)
	recipe := strings.ReplaceAll(f.recipe, "FROM base", "FROM oci-archive:"+b.base)
	recipe = strings.ReplaceAll(recipe, "from base", "from oci-archive:"+b.base)
	recipe = strings.ReplaceAll(recipe, "from=base", "from=oci-archive:"+b.base)
	check(t, os.WriteFile(filepath.Join(dir, "Containerfile"), []byte(recipe), 0o644))
	return dir
}

func (b *formBuilder) byFreejail(t *testing.T, f form) string {
	dir, out := b.context(t, f), filepath.Join(t.TempDir(), "image.tar")
	cmd := exec.Command(b.bin, append(append([]string{"build", "--cache", b.cache, "-o", out}, f.flags...), dir)...)
	text, err := cmd.CombinedOutput()
	if err != nil {
		if f.fails == "" || !strings.Contains(string(text), f.fails) {
			t.Errorf("%v: %s", err, text)
		}
		return "it fails"
	}
	return described(t, out, nil)
}

// byBuildah has its images in a directory of the test's own.
func (b *formBuilder) byBuildah(t *testing.T, f form) string {
	dir, own := b.context(t, f), t.TempDir()
	buildah := []string{"buildah", "--root", b.images + "/root", "--runroot", b.images + "/run", "--storage-driver", "vfs"}
	args := append(slices.Clone(buildah), "bud", "--quiet", "--format", "docker", "--isolation", "chroot", "--network",
		"host", "-t", "image")
	cmd := exec.Command(buildah[0], append(append(args[1:], f.flags...), dir)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+own, "HOME="+own)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		if f.fails == "" {
			t.Errorf("buildah: %v: %s", err, text)
		}
		return "it fails"
	}
	out := filepath.Join(own, "image.tar")
	call(t, append(slices.Clone(buildah), "push", "--quiet", "image", "oci-archive:"+out)...)
	text := call(t, append(buildah, "inspect", "--type", "image", "image")...)
	var inspected struct {
		Docker struct {
			Author string
			Config struct {
				ocispec.ImageConfig
				image.DockerConfig
			}
		}
	}
	check(t, json.Unmarshal([]byte(text), &inspected))
	return described(t, out, func(i *image.Image) {
		c := inspected.Docker
		i.Config.Author, i.Config.Config, i.Docker = c.Author, c.Config.ImageConfig, c.Config.DockerConfig
	})
}

// described is an image as lines: what its config says, and its files but those
// of the base.
func described(t *testing.T, archive string, change func(*image.Image)) string {
	store, err := layout.OpenStore(t.TempDir(), image.Limits{})
	check(t, err)
	defer store.Close()
	img, err := store.ImportFor(t.Context(), archive, "image", ocispec.Platform{}, nil)
	check(t, err)
	if change != nil {
		change(img)
	}
	var out bytes.Buffer
	c := img.Config.Config
	line := func(key string, value any) {
		if text, err := json.Marshal(value); err != nil {
			t.Error(err)
		} else if !slices.Contains([]string{`""`, "null", "[]", "{}"}, string(text)) {
			fmt.Fprintf(&out, "%s %s\n", key, text)
		}
	}
	delete(c.Labels, "io.buildah.version")
	line("author", img.Config.Author)
	line("user", c.User)
	line("workdir", strings.TrimSuffix(c.WorkingDir, "/"))
	line("env", slices.DeleteFunc(slices.Clone(c.Env), func(kv string) bool {
		return kv == "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}))
	line("entrypoint", c.Entrypoint)
	line("cmd", c.Cmd)
	line("labels", c.Labels)
	line("ports", slices.Sorted(maps.Keys(c.ExposedPorts)))
	line("volumes", slices.Sorted(maps.Keys(c.Volumes)))
	line("stop", c.StopSignal)
	line("shell", img.Docker.Shell)
	line("onbuild", img.Docker.OnBuild)
	if img.Docker.Healthcheck != nil {
		line("health", img.Docker.Healthcheck)
	}
	root := t.TempDir()
	check(t, unpack.Image(t.Context(), store, img, root, nil))
	listFiles(t, root, &out)
	return strings.TrimSpace(out.String())
}

// ofBase are the base's own, and what builders put into a root.
var ofBase = []string{"bin", "dev", "etc", "proc", "run", "sys"}

func listFiles(t *testing.T, root string, out *bytes.Buffer) {
	check(t, filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		name, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if slices.Contains(ofBase, name) {
			return fs.SkipDir
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		fmt.Fprintf(out, "/%s %04o %d:%d", name, st.Mode&0o7777, st.Uid, st.Gid)
		switch {
		case e.Type().IsRegular():
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, " %q", text)
		case e.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, " -> %s", to)
		}
		out.WriteByte('\n')
		return nil
	}))
}

func (f written) with(name, text string) written {
	out := maps.Clone(f)
	out[name] = text
	return out
}
