package build

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/regular"
)

// Set is an archive that becomes a layer.
type Set struct {
	File   string
	Digest digest.Digest // that it must have; empty: it is not known
}

// Archive makes an image with one layer for each archive (tar, also in gzip,
// zstd or xz), such as FreeBSD's distribution sets. Of the options it takes
// Output, Store, Tag, Platform, Compression, Epoch, Cache, Progress and TempDir; the
// platform's default is FreeBSD's on this host's processor. The version of the
// system is recorded where the sets tell it.
func Archive(ctx context.Context, sets []Set, o Options) (_ *image.Image, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Platform.OS == "" {
		o.Platform.OS = "freebsd"
	}
	o.Context = "/" // the sets may lie anywhere: the operator named them
	b := newBuilder(o)
	b.anywhere = true
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	if err := b.open(ctx); err != nil {
		return nil, err
	}
	p := &planner{file: &File{Name: "archive", Instructions: []Instruction{{Verb: "FROM", Line: 1, Text: "scratch"}}},
		platform: o.Platform}
	if err := p.plan(ctx); err != nil {
		return nil, err
	}
	for _, s := range sets {
		if err := b.addSet(ctx, p, s); err != nil {
			return nil, err
		}
	}
	b.complete = recordVersion
	img, err := b.build(ctx, p)
	var at *Error
	if errors.As(err, &at) {
		err = at.Err // there is no Jailfile to point at
	}
	return img, err
}

var errNowhere = errors.New("no output and no store given for the image")

func (b *builder) addSet(ctx context.Context, p *planner, s Set) error {
	name := filepath.Base(s.File)
	if strings.HasPrefix(name, "kernel.") || strings.HasPrefix(name, "kernel-") {
		return fmt.Errorf("%s: a jail runs on the host's kernel: leave it out", s.File)
	}
	abs, err := filepath.Abs(s.File)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return err
	}
	if fi, err := os.Stat(abs); err == nil {
		if err := b.spare(s.File, fi); err != nil {
			return err
		}
	}
	rel := strings.TrimPrefix(filepath.ToSlash(abs), "/")
	if s.Digest != "" {
		b.progress("verifying %s", name)
		sum, err := b.hashes.sum(ctx, b, rel)
		if err != nil {
			return err
		}
		if got := digest.NewDigestFromEncoded(digest.SHA256, sum); got != s.Digest {
			return fmt.Errorf("%s has the digest %s, and must have %s: fetch it again from where you trust it", s.File,
				got, s.Digest)
		}
	}
	p.add(Instruction{Verb: "ADD", Line: 1, Text: name + " /"},
		&copyStep{sources: []string{escapeGlob(rel)}, dest: "/", unpack: true, strict: true})
	return nil
}

func escapeGlob(name string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(name)
}

// ReadManifest finds sets in FreeBSD's MANIFEST, which lies beside them and has
// a line for each: name, SHA-256, and more, between tabs. A set that it does not
// name is an error.
func ReadManifest(file string, sets []Set) (err error) {
	f, _, err := regular.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sums := map[string]digest.Digest{}
	scan := bufio.NewScanner(f)
	for line := 1; scan.Scan(); line++ {
		fields := strings.Split(scan.Text(), "\t")
		if len(fields) < 2 {
			return fmt.Errorf("%s:%d: want a name, a tab and a SHA-256", file, line)
		}
		d := digest.NewDigestFromEncoded(digest.SHA256, strings.ToLower(fields[1]))
		if d.Validate() != nil {
			return fmt.Errorf("%s:%d: %q is not a valid SHA-256", file, line, fields[1])
		}
		sums[fields[0]] = d
	}
	if err := scan.Err(); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for i, s := range sets {
		d, ok := sums[filepath.Base(s.File)]
		if !ok {
			return fmt.Errorf("%s does not name %s", file, filepath.Base(s.File))
		}
		if s.Digest != "" && s.Digest != d {
			return fmt.Errorf("%s must have the digest %s by %s, and %s by what is asked for", s.File, d, file,
				s.Digest)
		}
		sets[i].Digest = d
	}
	return nil
}

// versionFile is a script that says which version of FreeBSD the userland is.
const versionFile = "bin/freebsd-version"

var userland = regexp.MustCompile(`(?m)^USERLAND_VERSION="([0-9]{1,3}\.[0-9]{1,3})-[A-Za-z0-9.-]+"`)

// recordVersion writes the version of a FreeBSD userland into the config.
func recordVersion(ctx context.Context, w *work, c *ocispec.Image) error {
	text, err := w.readFile(ctx, versionFile)
	if err != nil || c.OS != "freebsd" {
		return err
	}
	if m := userland.FindSubmatch(text); m != nil {
		c.OSVersion = string(m[1])
	}
	return nil
}

// readFile gives a file of the image, nil where there is none.
func (b *work) readFile(ctx context.Context, name string) (text []byte, err error) {
	v, err := b.files(ctx)
	if err != nil {
		return nil, err
	}
	_, n, missing, err := v.walk(name, true)
	if err != nil || len(missing) > 0 || n.kind != tar.TypeReg {
		return nil, err
	}
	err = b.readFiles(ctx, []string{name}, func(_ string, got []byte) error { text = got; return nil })
	return text, err
}

// readFiles gives the texts of files that the image has; each layer is read
// once.
func (b *work) readFiles(ctx context.Context, names []string, got func(name string, text []byte) error) (err error) {
	v, err := b.files(ctx)
	if err != nil {
		return err
	}
	src := &layerSource{of: b, name: "the image", view: v, found: map[place]*spooled{}}
	defer func() { err = errors.Join(err, src.close()) }()
	items := make([]item, 0, len(names))
	for _, name := range names {
		n, err := src.stat(name, true)
		if err != nil {
			return err
		}
		items = append(items, item{node: n, name: name, from: n.from})
	}
	if err := src.collect(ctx, items); err != nil {
		return err
	}
	for _, i := range items {
		text, err := src.text(ctx, i)
		if err == nil {
			err = got(i.name, text)
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
	}
	return nil
}

// text is the content of a file that was collected.
func (l *layerSource) text(ctx context.Context, i item) ([]byte, error) {
	r, err := l.open(ctx, i)
	if err != nil {
		return nil, err
	}
	if r.size > maxText {
		return nil, fmt.Errorf("/%s has %d bytes, over the limit of %d", path.Clean(i.name), r.size, maxText)
	}
	return io.ReadAll(r)
}
