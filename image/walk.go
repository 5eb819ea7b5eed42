package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

const (
	maxDepth = 256  // keeps what removes a tree later from running out of files
	maxSteps = 2048 // of names looked up for one path
	maxLinks = 40
)

type level struct {
	root *os.Root
	name string
}

// walk opens a directory by its path from the tree's root, one component at a
// time. The caller closes what it gets.
func (t *tree) walk(dir string, create, follow bool) (_ *os.Root, at string, err error) {
	var stack []level
	pop := func(n int) {
		for len(stack) > n {
			err = errors.Join(err, stack[len(stack)-1].root.Close())
			stack = stack[:len(stack)-1]
		}
	}
	defer func() { pop(0) }()
	todo, links := strings.Split(dir, "/"), 0
	for steps := 0; len(todo) > 0; steps++ {
		name := todo[0]
		todo = todo[1:]
		if name == "" || name == "." {
			continue
		}
		if name == ".." {
			pop(max(len(stack)-1, 0))
			continue
		}
		top := t.root
		if len(stack) > 0 {
			top = stack[len(stack)-1].root
		}
		target, err := t.step(top, name, create)
		if err != nil {
			return nil, "", err
		}
		if target != "" {
			if !follow {
				return nil, "", errNotDir
			}
			if links++; links > maxLinks || steps > maxSteps {
				return nil, "", fmt.Errorf("%s: too many symbolic links", name)
			}
			if path.IsAbs(target) {
				pop(0)
			}
			todo = append(strings.Split(target, "/"), todo...)
			continue
		}
		if len(stack) >= maxDepth {
			return nil, "", fmt.Errorf("directories are more than %d deep", maxDepth)
		}
		sub, err := top.OpenRoot(name)
		if err != nil {
			return nil, "", err
		}
		stack = append(stack, level{sub, name})
	}
	if len(stack) == 0 {
		r, err := t.root.OpenRoot(".")
		return r, ".", err
	}
	names := make([]string, len(stack))
	for i, l := range stack {
		names[i] = l.name
	}
	last := stack[len(stack)-1].root
	stack = stack[:len(stack)-1]
	return last, path.Join(names...), nil
}

// step makes sure that a name is a directory, or gives the link's target.
func (t *tree) step(in *os.Root, name string, create bool) (target string, err error) {
	fi, err := in.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && create:
		if err := t.budget.addEntry(); err != nil {
			return "", err
		}
		if err := in.Mkdir(name, 0o755); err != nil {
			return "", err
		}
		return "", in.Chmod(name, 0o755) // whatever the umask is
	case err != nil:
		return "", err
	case fi.Mode()&fs.ModeSymlink != 0:
		return in.Readlink(name)
	case !fi.IsDir():
		return "", &fs.PathError{Op: "open", Path: name, Err: errNotDir}
	}
	return "", nil
}

var errNotDir = errors.New("it is not a directory")

// lookup finds an entry for a hard link, its own last place not followed.
func (t *tree) lookup(name string) (at string, fi fs.FileInfo, err error) {
	dir, base := path.Split(name)
	root, at, err := t.walk(dir, false, true)
	if err != nil {
		return "", nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if base == "" {
		base = "."
	}
	fi, err = root.Lstat(base)
	return path.Join(at, base), fi, err
}
