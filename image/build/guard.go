package build

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/freejail/freejail/internal/regular"
)

// lookAtOutput notes what stands at the output: it is replaced, and so must be no
// input, by whatever name.
func (b *builder) lookAtOutput() (err error) {
	if b.opts.Output == "" {
		return nil
	}
	if err := regular.CheckOutput(b.opts.Output, true); err != nil {
		return err
	}
	b.standing, err = os.Stat(b.opts.Output)
	if errors.Is(err, fs.ErrNotExist) {
		b.standing = nil
		return nil
	}
	for _, name := range b.opts.Inputs {
		if fi, serr := os.Stat(name); serr == nil {
			err = errors.Join(err, b.spare(name, fi))
		}
	}
	return err
}

// spare refuses an input that the output would replace, or, where it is a directory, lie in.
func (b *builder) spare(name string, fi fs.FileInfo) error {
	if b.opts.Output != "" && fi != nil && fi.IsDir() {
		if within, err := regular.Within(b.opts.Output, fi); err != nil || !within {
			return err
		}
		return fmt.Errorf("the output %s lies in %s, which is an input of this build: give another -o",
			b.opts.Output, name)
	}
	if b.standing == nil || fi == nil || !os.SameFile(b.standing, fi) {
		return nil
	}
	return fmt.Errorf("the output %s would replace %s, which is an input of this build: give another -o",
		b.opts.Output, name)
}

// spareContext refuses an output in the context that is no image of an earlier build:
// such an image is not copied, but another file may be a source.
func (b *builder) spareContext() error {
	name, ok := b.inContext(b.opts.Output)
	if b.opts.Output == "" || !ok || b.standing == nil || b.standing.IsDir() {
		return nil
	}
	f, _, err := b.openFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	h, err := tar.NewReader(f).Next()
	if err == nil && (h.Name == "oci-layout" || h.Name == "index.json" || strings.HasPrefix(h.Name, "blobs")) {
		return nil
	}
	return fmt.Errorf("the output %s would replace a file of the context that is not an image: give another -o",
		b.opts.Output)
}

// spared opens an input, unless the output would replace it.
func (b *builder) spared(name string) func(*os.File, fs.FileInfo, error) (io.ReadCloser, error) {
	return func(f *os.File, fi fs.FileInfo, err error) (io.ReadCloser, error) {
		if err != nil {
			return nil, err
		}
		if err = b.spare(name, fi); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
}
