package build

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/freejail/freejail/image/unpack"
)

// view is what is known of an image's files without unpacking them: enough to
// place new entries as unpacking will find them, with the image's links
// followed inside the image and nowhere else.
type view struct {
	root  *node
	layer int   // counts layers, so that a whiteout spares what its own layer made
	entry int   // counts the entries of a layer
	left  int64 // entries that may still be added
	texts int64 // bytes of what is kept of passwd and group files
	steps int64 // of all walks
	sums  bool  // nodes of files get the digests of their contents
}

// place is where an entry stands, both numbers counted from 1. The zero place is
// of a directory that no entry names.
type place struct{ layer, entry int }

// next begins a layer.
func (v *view) next() { v.layer, v.entry = v.layer+1, 0 }

// following is the place of the entry that comes next.
func (v *view) following() place { return place{v.layer, v.entry + 1} }

// node is one entry of the image.
type node struct {
	kind     byte // tar.TypeDir, tar.TypeReg, tar.TypeSymlink or tar.TypeFifo
	mode     int64
	uid, gid int
	link     string           // of a symbolic link
	names    map[string]*node // of a directory
	text     []byte           // of what may be passwd or group
	layer    int
	opaque   int // the last layer that has hidden all of a directory
	size     int64
	sum      [sha256.Size]byte // where the view wants it
	from     place             // of a hard link: the file's own, so that equal ones are one file
}

const (
	maxEntries = 1_000_000
	maxDepth   = 256 // as the unpacker has it
	maxLinks   = 40
	maxText    = 4 << 20
	maxTexts   = 64 << 20
	maxName    = 255    // NAME_MAX of both systems
	maxTarget  = 4096   // no system takes a longer link
	maxSteps   = 4096   // of one walk, those in links too
	baseSteps  = 20_000 // of all walks, as the unpacker takes them
	entrySteps = 32     // more for each entry
)

var (
	errNotDir = errors.New("not a directory")
	errMaze   = errors.New("too many symbolic links and directories")
)

func newView() *view {
	return &view{root: newDir(), left: maxEntries}
}

func newDir() *node { return &node{kind: tar.TypeDir, mode: 0o755, names: map[string]*node{}} }

// walk goes along a path as a process in the image would, as far as it exists:
// missing are the names after that. Only with last is a link in the last place
// followed.
func (v *view) walk(p string, last bool) (at string, n *node, missing []string, err error) {
	names, nodes := []string{}, []*node{v.root}
	todo := components(p)
	for links, steps := 0, 0; len(todo) > 0; {
		if steps++; steps > maxSteps {
			return "", nil, nil, fmt.Errorf("/%.200s: more than %d steps lead there", p, maxSteps)
		}
		name := todo[0]
		todo = todo[1:]
		if name == ".." {
			names = names[:max(len(names)-1, 0)]
			nodes = nodes[:max(len(nodes)-1, 1)]
			continue
		}
		if err := v.step(); err != nil {
			return "", nil, nil, fmt.Errorf("/%.200s: %w", p, err)
		}
		top := nodes[len(nodes)-1]
		if top.kind != tar.TypeDir {
			return "", nil, nil, fmt.Errorf("/%s: %w", path.Join(names...), errNotDir)
		}
		child := top.names[name]
		switch {
		case child == nil && slices.Contains(todo, ".."):
			return "", nil, nil, fmt.Errorf("/%s does not exist in the image", path.Join(append(names, name)...))
		case child == nil:
			return path.Join(names...), top, append([]string{name}, todo...), nil
		case child.kind == tar.TypeSymlink && (last || len(todo) > 0):
			if links++; links > maxLinks {
				return "", nil, nil, fmt.Errorf("/%s: too many symbolic links", p)
			}
			if path.IsAbs(child.link) {
				names, nodes = names[:0], nodes[:1]
			}
			todo = append(components(child.link), todo...)
			continue
		}
		if child.kind == tar.TypeDir && len(nodes) > maxDepth {
			return "", nil, nil, fmt.Errorf("/%s: directories are more than %d deep", path.Join(names...), maxDepth)
		}
		names, nodes = append(names, name), append(nodes, child)
	}
	return path.Join(names...), nodes[len(nodes)-1], nil, nil
}

// components are the names of a path, ".." among them.
func components(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." })
}

// dir finds a directory, through links, and makes what is missing of it. It
// gives the path without links; made is called for each new directory.
func (v *view) dir(p string, made func(at string, n *node) error) (string, error) {
	at, n, missing, err := v.walk(p, true)
	if err == nil && n.kind != tar.TypeDir {
		err = fmt.Errorf("/%s: %w", at, errNotDir)
	}
	if err != nil {
		return "", err
	}
	for _, name := range missing {
		at = path.Join(at, name)
		n := newDir()
		if err := v.put(at, n); err != nil {
			return "", err
		}
		if made == nil {
			continue
		}
		if err := made(at, n); err != nil {
			return "", err
		}
	}
	return at, nil
}

// step counts a name that is looked up, or hidden.
func (v *view) step() error {
	if v.steps++; v.steps > baseSteps+entrySteps*(maxEntries-v.left) {
		return fmt.Errorf("%w: more than %d steps", errMaze, v.steps-1)
	}
	return nil
}

// charge counts an entry.
func (v *view) charge() error {
	if v.left--; v.left < 0 {
		return fmt.Errorf("the image has more than %d entries", maxEntries)
	}
	return nil
}

// put sets the entry of a path whose parents exist and are no links.
func (v *view) put(at string, n *node) error {
	if err := v.charge(); err != nil {
		return err
	}
	names := components(at)
	dirs := len(names)
	if n.kind != tar.TypeDir {
		dirs--
	}
	if dirs > maxDepth {
		return fmt.Errorf("/%s: directories are more than %d deep", at, maxDepth)
	}
	if i := slices.IndexFunc(names, func(s string) bool { return len(s) > maxName }); i >= 0 {
		return fmt.Errorf("the name %.40q... has more than %d bytes", names[i], maxName)
	}
	if len(n.link) > maxTarget {
		return fmt.Errorf("/%s: the link has more than %d bytes", at, maxTarget)
	}
	n.layer = v.layer
	top := v.root
	for i, name := range names {
		top.layer = v.layer
		if i == len(names)-1 {
			top.names[name] = n
			return nil
		}
		if top = top.names[name]; top == nil || top.kind != tar.TypeDir {
			return fmt.Errorf("/%s: %w", path.Join(names[:i+1]...), errNotDir)
		}
	}
	return errors.New("the root itself cannot be replaced")
}

// get finds the entry of a path without links.
func (v *view) get(at string) *node {
	n := v.root
	for _, name := range components(at) {
		if n = n.names[name]; n == nil {
			return nil
		}
	}
	return n
}

// apply adds a layer as unpacking it would.
func (v *view) apply(r io.Reader) error {
	v.next()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			v.end()
			return nil
		}
		if err != nil {
			return err
		}
		if err := v.applyEntry(h, tr); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
}

func (v *view) applyEntry(h *tar.Header, r io.Reader) error {
	v.entry++
	e, err := unpack.ReadEntry(h, true)
	if err != nil {
		return err
	}
	switch e.Kind {
	case unpack.Whiteout, unpack.Opaque:
		return v.whiteout(e)
	case unpack.Makes:
	default:
		return nil
	}
	at, err := v.dir(e.Dir, nil)
	if err != nil {
		return err
	}
	at = path.Join(at, e.Base)
	var n *node
	if h.Typeflag == tar.TypeLink {
		n, err = v.hardLink(at, e.Link)
	} else {
		n, err = v.nodeOf(h, at, r)
	}
	if err != nil {
		return err
	}
	return v.put(at, n)
}

// hardLink gives the node of a link's target.
func (v *view) hardLink(at, to string) (*node, error) {
	real, target, missing, err := v.walk(to, false)
	switch {
	case err != nil:
	case len(missing) > 0 || strings.HasPrefix(real, at+"/"): // of what the link replaces
		err = errors.New("no such file in the image")
	case target.kind == tar.TypeDir:
		err = errors.New("not a file")
	case real == at:
		err = errors.New("it points to itself")
	}
	if err != nil {
		return nil, fmt.Errorf("hard link to %q: %w", to, err)
	}
	linked := *target
	return &linked, nil
}

// end ends a layer.
func (v *view) end() { delete(v.root.names, unpack.AufsLinks) }

func (v *view) nodeOf(h *tar.Header, at string, r io.Reader) (*node, error) {
	n := &node{kind: h.Typeflag, mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid, link: h.Linkname,
		from: place{v.layer, v.entry}}
	switch h.Typeflag {
	case tar.TypeDir:
		n.names = map[string]*node{}
		if old := v.get(at); old != nil && old.kind == tar.TypeDir {
			n.names, n.opaque = old.names, old.opaque
		}
	case tar.TypeSymlink, tar.TypeFifo:
	case tar.TypeLink:
		return v.hardLink(at, h.Linkname)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		n.kind, n.size = tar.TypeReg, h.Size
		if v.sums {
			return n, n.addSum(r)
		}
		return n, v.keepText(n, path.Base(at), h.Size, r)
	default:
		return nil, fmt.Errorf("unknown entry type %q", h.Typeflag)
	}
	return n, nil
}

func (n *node) addSum(r io.Reader) error {
	h := sha256.New()
	_, err := io.Copy(h, r)
	h.Sum(n.sum[:0])
	return err
}

func usersFile(name string) bool { return path.Base(name) == "passwd" || path.Base(name) == "group" }

// keepText keeps the content of what --chown=NAME is looked up in.
func (v *view) keepText(n *node, base string, size int64, r io.Reader) (err error) {
	if !usersFile(base) || size > maxText {
		return nil
	}
	if v.texts += size; v.texts > maxTexts {
		return fmt.Errorf("the image's files named passwd and group have more than %d bytes together", maxTexts)
	}
	n.text, err = io.ReadAll(io.LimitReader(r, size))
	return err
}

func (v *view) whiteout(e unpack.Entry) error {
	if err := v.charge(); err != nil {
		return err
	}
	_, n, missing, err := v.walk(e.Dir, true)
	if err != nil || len(missing) > 0 || n.kind != tar.TypeDir {
		return err // there is nothing to hide
	}
	if e.Kind == unpack.Opaque {
		return v.hideContents(n)
	}
	return v.hide(n, e.Base)
}

// hide spares what this layer made.
func (v *view) hide(in *node, name string) error {
	switch n := in.names[name]; {
	case n == nil:
	case n.layer < v.layer:
		delete(in.names, name)
	case n.kind == tar.TypeDir:
		return v.hideContents(n)
	}
	return nil
}

// hideContents goes through a directory once in a layer: what comes to it later
// is the layer's own.
func (v *view) hideContents(n *node) error {
	if n.opaque == v.layer {
		return nil
	}
	n.opaque = v.layer
	kept := map[string]*node{} // to go through what a map once had takes time, too
	for name, c := range n.names {
		if err := v.step(); err != nil {
			return err
		}
		if c.layer < v.layer {
			continue
		}
		kept[name] = c
		if c.kind != tar.TypeDir {
			continue
		}
		if err := v.hideContents(c); err != nil {
			return err
		}
	}
	n.names = kept
	return nil
}

// users gives the image's own passwd and group.
func (v *view) users() map[string][]byte {
	out := map[string][]byte{}
	for _, name := range []string{"passwd", "group"} {
		_, n, missing, err := v.walk("etc/"+name, true)
		if err == nil && len(missing) == 0 && n.kind == tar.TypeReg {
			out[name] = n.text
		}
	}
	return out
}
