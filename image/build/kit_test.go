package build

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/unpack"
)

var freebsd = ocispec.Platform{OS: "freebsd", Architecture: "amd64"}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// files of a directory: a name that ends in a slash is a directory, a text that
// begins with "-> " a link's target, and "#!" makes it executable.
type files map[string]string

func (f files) write(t testing.TB, dir string) {
	t.Helper()
	for name, text := range f {
		p := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			check(t, os.MkdirAll(p, 0o755))
			continue
		}
		check(t, os.MkdirAll(filepath.Dir(p), 0o755))
		if to, link := strings.CutPrefix(text, "-> "); link {
			check(t, os.Symlink(to, p))
			continue
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		check(t, os.WriteFile(p, []byte(text), mode))
	}
}

// made is a built image.
type made struct {
	*testing.T
	img   *image.Image
	store *layout.Store
	path  string
}

// try builds lines in a context.
func try(t *testing.T, context files, lines string, change func(*Options)) (*made, error) {
	t.Helper()
	dir := t.TempDir()
	context.write(t, dir)
	check(t, os.WriteFile(filepath.Join(dir, "Jailfile"), []byte(lines), 0o644))
	m := &made{T: t, path: filepath.Join(t.TempDir(), "image.tar")}
	o := Options{Context: dir, Output: m.path, TempDir: t.TempDir(), Platform: freebsd}
	if change != nil {
		change(&o)
	}
	img, err := Build(t.Context(), o)
	if left, rerr := os.ReadDir(o.TempDir); rerr != nil || len(left) > 0 {
		t.Errorf("the build left %v: %v", left, rerr)
	}
	if err != nil {
		if _, serr := os.Stat(m.path); !errors.Is(serr, os.ErrNotExist) {
			t.Errorf("it failed and left an image: %v", serr)
		}
		return nil, err
	}
	m.take(img)
	return m, nil
}

// take reads the archive as a host would.
func (m *made) take(built *image.Image) {
	m.Helper()
	var err error
	m.store, err = layout.OpenStore(m.TempDir(), image.Limits{})
	check(m, err)
	m.img, err = m.store.ImportFor(m.Context(), m.path, "", ocispec.Platform{}, nil)
	check(m, err)
	if built != nil && m.img.Digest != built.Digest {
		m.Errorf("the archive has %s, Build tells of %s", m.img.Digest, built.Digest)
	}
}

func make1(t *testing.T, context files, lines string) *made {
	t.Helper()
	m, err := try(t, context, lines, nil)
	check(t, err)
	return m
}

// base builds an image to be the base of another, and gives its archive.
func base(t *testing.T, context files, lines string) string {
	t.Helper()
	return make1(t, context, lines).path
}

// fails builds and wants an error at a line with a text in it.
func fails(t *testing.T, context files, lines string, line int, want string) {
	t.Helper()
	_, err := try(t, context, lines, nil)
	var at *Error
	if !errors.As(err, &at) || at.Line != line || !strings.Contains(err.Error(), want) {
		t.Errorf("%s\n%v\nwant line %d and %q", lines, err, line, want)
	}
}

// entry is one of a layer.
func entryText(h *tar.Header) string {
	s := fmt.Sprintf("%c %s %o %d:%d", h.Typeflag, h.Name, h.Mode, h.Uid, h.Gid)
	if h.Linkname != "" {
		s += " -> " + h.Linkname
	}
	return s
}

// layer lists a layer's entries, the last layer's for -1.
func (m *made) layer(n int) (out []string) {
	m.Helper()
	if n < 0 {
		n += len(m.img.Layers)
	}
	r, err := unpack.OpenLayer(m.Context(), m.store, m.img.Layers[n])
	check(m, err)
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		check(m, err)
		if h.Uname != "" || h.Gname != "" {
			m.Errorf("%s has names of users", h.Name)
		}
		out = append(out, entryText(h))
	}
}

func (m *made) want(n int, want ...string) {
	m.Helper()
	if got := m.layer(n); !slices.Equal(got, want) {
		m.Errorf("layer %d:\n%s\nwant\n%s", n, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// root unpacks the image.
func (m *made) root() string {
	m.Helper()
	dir := m.TempDir()
	check(m, unpack.Image(m.Context(), m.store, m.img, dir, nil))
	return dir
}

// has wants a file's text in the unpacked image; no link is followed on the
// host.
func (m *made) has(name, text string) {
	m.Helper()
	root, err := os.OpenRoot(m.root())
	check(m, err)
	defer root.Close()
	b, err := root.ReadFile(name)
	if err != nil || string(b) != text {
		m.Errorf("%s: %q %v, want %q", name, b, err, text)
	}
}

// tarOf makes an archive of headers; a regular file's text is in Linkname.
func tarOf(t testing.TB, list ...tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range list {
		text := ""
		if h.Typeflag == 0 || h.Typeflag == tar.TypeReg {
			h.Typeflag, text, h.Linkname = tar.TypeReg, h.Linkname, ""
		}
		h.Size = int64(len(text))
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		check(t, tw.WriteHeader(&h))
		_, err := io.WriteString(tw, text)
		check(t, err)
	}
	check(t, tw.Close())
	return b.String()
}

func needRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("owners need root")
	}
}
