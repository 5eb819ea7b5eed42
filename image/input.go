package image

import (
	"errors"
	"io/fs"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

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
	return regular.ReadIn(in.root, ocispec.ImageIndexFile, document.MaxBytes)
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
