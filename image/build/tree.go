package build

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/freejail/freejail/internal/remove"
)

// tree is an image's files on the disk, as RUN needs them.
type tree interface {
	// open makes the tree have what the image's layers have, and remembers its
	// state. The path is absolute.
	open(ctx context.Context, b *work) (dir string, err error)
	// changes lists what is different since open, and the state of all that the
	// list names.
	changes(ctx context.Context, b *work) ([]change, map[string]state, error)
	// keep tells that the image's layers are now what the tree has.
	keep(ctx context.Context, b *work) error
	close() error
}

func (b *work) newTree() tree {
	if b.pool != nil {
		return &zfsTree{pool: b.pool, keeps: b.cache != nil, used: map[string]string{}}
	}
	return &dirTree{dir: filepath.Join(b.dir, "root-"+b.stage.title())}
}

// dirTree is a directory, of which a walk finds the changes.
type dirTree struct {
	dir    string
	layers int // it has the first so many
	before map[string]state
	after  map[string]state
}

// mountPoints are where a runner may mount.
var mountPoints = []string{"dev", "proc"}

func (t *dirTree) open(ctx context.Context, b *work) (string, error) {
	if t.layers == 0 && t.before == nil {
		if err := makeRoot(t.dir); err != nil {
			return "", err
		}
	}
	if t.layers < len(b.layers) {
		if err := b.apply(ctx, t.dir, t.layers); err != nil {
			return "", err
		}
		t.layers, t.before = len(b.layers), nil
	}
	made, err := makeMountPoints(t.dir)
	if err != nil {
		return "", err
	}
	if made || t.before == nil {
		t.before, err = recordDir(ctx, t.dir)
	}
	return t.dir, err
}

// makeRoot makes the directory of a root, whatever the umask is.
func makeRoot(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

func makeMountPoints(dir string) (made bool, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for _, name := range mountPoints {
		switch err := root.Mkdir(name, 0o755); {
		case err == nil:
			made = true
			if err := root.Chmod(name, 0o755); err != nil { // whatever the umask is
				return made, err
			}
		case !errors.Is(err, fs.ErrExist):
			return made, err
		}
	}
	return made, nil
}

func recordDir(ctx context.Context, dir string) (_ map[string]state, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return record(ctx, root)
}

func (t *dirTree) changes(ctx context.Context, _ *work) (_ []change, _ map[string]state, err error) {
	if _, err := makeMountPoints(t.dir); err != nil { // they stay, whatever the command did
		return nil, nil, err
	}
	t.after, err = recordDir(ctx, t.dir)
	return diff(t.before, t.after), t.after, err
}

func (t *dirTree) keep(_ context.Context, b *work) error {
	t.layers, t.before, t.after = len(b.layers), t.after, nil
	return nil
}

func (t *dirTree) close() error {
	return remove.Tree(t.dir)
}
