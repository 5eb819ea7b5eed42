package layout

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/regular"
)

// Input is an archive or a layout directory to import from, opened once: what
// its path means later does not matter.
type Input struct {
	path string // as the caller named it, for messages
	info fs.FileInfo
	file *os.File // of an archive
	root *os.Root // of a layout
}

// OpenInput opens what is at a path, and waits for nothing, whatever that is.
// The name is for messages.
func OpenInput(path, name string) (*Input, error) {
	f, fi, err := regular.OpenAny(path)
	var at *fs.PathError
	if errors.As(err, &at) {
		at.Path = name
	}
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return &Input{path: name, info: fi, file: f}, nil
	}
	root, err := regular.Root(path)
	return &Input{path: name, info: fi, root: root}, errors.Join(err, f.Close())
}

// OpenInputIn is OpenInput for a path within a root, which no link leads out of.
// An archive is opened by the caller, who may refuse it.
func OpenInputIn(root *os.Root, path, name string,
	open func(path string) (*os.File, fs.FileInfo, error)) (*Input, error) {
	fi, err := root.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.IsDir() {
		dir, err := root.OpenRoot(path)
		if err != nil {
			return nil, err
		}
		return &Input{path: name, info: fi, root: dir}, nil
	}
	f, fi, err := open(path)
	if err != nil {
		return nil, err
	}
	return &Input{path: name, info: fi, file: f}, nil
}

// Index reads the index.json of a layout; an archive's is nil.
func (in *Input) Index() ([]byte, error) {
	if in.root == nil {
		return nil, nil
	}
	return regular.ReadIn(in.root, indexFile, document.MaxBytes)
}

// Info is what was opened.
func (in *Input) Info() fs.FileInfo { return in.info }

// Close lets go of it.
func (in *Input) Close() error {
	if in.root != nil {
		return in.root.Close()
	}
	return in.file.Close()
}

// members gives what has to be extracted before it is a layout; nil is a layout.
func (in *Input) members(x extraction) members {
	if in.root == nil {
		return archived{in, x.limits, x.tell}
	}
	_, err := in.root.Lstat(indexFile)
	if _, merr := in.root.Lstat(manifestFile); errors.Is(err, fs.ErrNotExist) && merr == nil {
		return directory{in.root, x.limits}
	}
	return nil
}

// layout gives what was opened as a layout. What is none, such as an archive, is
// extracted into one that goes with its Close.
func (in *Input) layout(ctx context.Context, x extraction) (*Layout, error) {
	from := in.members(x)
	if from == nil {
		root, err := in.root.OpenRoot(".")
		return &Layout{root: root, name: in.path, limits: x.limits}, err
	}
	dir, err := os.MkdirTemp(x.parent, "archive-")
	if err != nil {
		return nil, blob.ExplainNoSpace(err)
	}
	var root *os.Root
	converted, err := x.extract(ctx, from, dir)
	if err == nil {
		root, err = os.OpenRoot(dir)
	} else {
		err = fmt.Errorf("archive %s: %w", in.path, err)
	}
	if err != nil {
		return nil, errors.Join(blob.ExplainNoSpace(err), os.RemoveAll(dir))
	}
	return &Layout{root: root, name: in.path, dir: dir, limits: x.limits, mode: 0o644, own: true,
		made: converted}, nil
}

// openLayout is layout for what is at a path.
func openLayout(ctx context.Context, path string, x extraction) (*Layout, error) {
	in, err := OpenInput(path, path)
	if err != nil {
		return nil, err
	}
	l, err := in.layout(ctx, x)
	return l, errors.Join(err, in.Close())
}

// OpenArchive extracts an archive (an oci-archive, a docker-archive or one of a dir, in a
// tar, also in gzip, bzip2, zstd or xz) into a temporary layout, which Close removes.
// Every blob is verified.
func OpenArchive(ctx context.Context, file string, limits image.Limits,
	progress func(image.Progress)) (*Layout, error) {
	l, err := openLayout(ctx, file, extraction{limits: limits.WithDefaults(), verify: true, tell: progress})
	if err == nil && !l.own {
		return nil, errors.Join(fmt.Errorf("%s is a directory, not an archive", file), l.Close())
	}
	return l, err
}

// OpenDirectory opens a layout, or a directory of another form as OpenArchive does.
func OpenDirectory(ctx context.Context, path string, limits image.Limits) (*Layout, error) {
	in, err := OpenInput(path, path)
	if err != nil {
		return nil, err
	}
	x := extraction{limits: limits.WithDefaults(), verify: true}
	if in.root == nil || in.members(x) == nil {
		l, err := Open(path)
		return l, errors.Join(err, in.Close())
	}
	l, err := in.layout(ctx, x)
	return l, errors.Join(err, in.Close())
}

// OpenImage opens a directory or an archive to look at one of its images,
// and to unpack that from there. Manifest and config are verified at once, and so is
// all of an archive; the layers of a directory when they are unpacked. The zero platform means any, the
// host's first.
func OpenImage(ctx context.Context, path string, p ocispec.Platform, limits image.Limits,
	progress func(image.Progress)) (*Layout, *image.Image, error) {
	l, err := openLayout(ctx, path, extraction{limits: limits.WithDefaults(), verify: true, tell: progress})
	if err != nil {
		return nil, nil, err
	}
	img, err := l.pick(ctx, image.Platforms(p))
	if err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	return l, img, nil
}

func (l *Layout) pick(ctx context.Context, wanted []ocispec.Platform) (*image.Image, error) {
	r, err := l.read()
	if err != nil {
		return nil, err
	}
	found, err := r.choose(ctx, wanted, "")
	if err != nil {
		return nil, err
	}
	if found.name != "" {
		if err := image.CheckName(found.name); err != nil {
			return nil, err
		}
	}
	get := func(d ocispec.Descriptor) ([]byte, error) { return ReadBlob(ctx, l, d) }
	img, _, err := image.Read(get, found.Descriptor)
	if err != nil {
		return nil, err
	}
	img.Name = found.name
	if l.own { // nobody would miss what an archive lacks before it is unpacked
		err = l.complete(img.Layers)
	}
	return img, errors.Join(err, img.Check(wanted, l.limits))
}
