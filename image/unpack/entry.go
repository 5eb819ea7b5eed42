package unpack

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"path"
	"strings"
)

// Whiteouts of the OCI image specification.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
)

// What aufs keeps beside the files, and old layers of Docker have too. Files in
// AufsLinks are what hard links of such a layer lead to; nothing else of it is a file.
const (
	aufsPrefix = ".wh..wh."
	AufsLinks  = ".wh..wh.plnk"
)

// maxName is the longest path that a system call would take.
const maxName = 4096

// Kind is what an entry of an archive does.
type Kind int

// The kinds of entries.
const (
	Ignored  Kind = iota // nothing: comments, files of aufs, device nodes below /dev
	Root                 // it is the root directory itself
	Makes                // a directory, a file, a link or a FIFO
	Whiteout             // removes Base of the layers below
	Opaque               // removes all that the layers below have in Dir
)

// Entry is one whose header was checked. Its name leads nowhere out of the root,
// but for links in the tree.
type Entry struct {
	Kind Kind
	Name string // from the root, without slashes around
	Dir  string // of Name, likewise
	Base string // the last of Name; of a Whiteout what it removes
	Link string // of a hard link: what it leads to, as Name
}

const maxBase = 255 // NAME_MAX of both systems

// ReadEntry reads what a header means: to all who look at layers in one way.
// Whiteouts are a layer's alone. Devices come from devfs: nodes below /dev, where that is
// mounted, are ignored, and others are an error.
func ReadEntry(h *tar.Header, layer bool) (Entry, error) {
	var e Entry
	if h.Typeflag == tar.TypeXGlobalHeader {
		return e, nil // comments of git and the like
	}
	var err error
	if e.Name, err = cleanName(h.Name); err != nil {
		return e, err
	}
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return e, fmt.Errorf("invalid owner %d:%d", h.Uid, h.Gid)
	}
	if _, err := timesOf(h); err != nil {
		return e, err
	}
	if e.Name == "" {
		e.Kind = Root
		if h.Typeflag != tar.TypeDir {
			err = errors.New("the root itself can only be a directory")
		}
		return e, err
	}
	dir, base := path.Split(e.Name)
	e.Dir, e.Base = strings.TrimSuffix(dir, "/"), base
	if layer && strings.Contains("/"+e.Name, "/"+whiteoutPrefix) {
		return e.hidden(h)
	}
	if e.Kind, err = kindOf(h, e.Name); err == nil {
		err = e.checkLink(h)
	}
	return e, err
}

func (e *Entry) checkLink(h *tar.Header) (err error) {
	switch {
	case h.Typeflag == tar.TypeLink:
		if e.Link, err = cleanName(h.Linkname); err != nil {
			return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
		}
	case h.Typeflag != tar.TypeSymlink:
	case h.Linkname == "":
		return errors.New("the target of the symbolic link is empty")
	case len(h.Linkname) >= maxName:
		return fmt.Errorf("the target of the symbolic link is longer than %d bytes", maxName-1)
	}
	return nil
}

// hidden is for names in a layer that have a meaning of their own.
func (e Entry) hidden(h *tar.Header) (Entry, error) {
	if top, _, _ := strings.Cut(e.Name, "/"); e.Name != opaqueMarker && aufsFile(top) {
		if top == AufsLinks && (h.Typeflag == tar.TypeDir || h.Typeflag == tar.TypeReg) {
			e.Kind = Makes
		}
		return e, nil
	}
	if strings.Contains("/"+e.Dir, "/"+whiteoutPrefix) {
		return e, errors.New("a whiteout cannot be a directory")
	}
	if e.Base == opaqueMarker {
		e.Kind = Opaque
		return e, nil
	}
	e.Kind, e.Base = Whiteout, strings.TrimPrefix(e.Base, whiteoutPrefix)
	if e.Base == "" || e.Base == "." || e.Base == ".." || strings.HasPrefix(e.Base, whiteoutPrefix) {
		return e, errors.New("not a valid whiteout")
	}
	return e, nil
}

func aufsFile(top string) bool {
	switch strings.TrimPrefix(top, aufsPrefix) {
	case "aufs", "orph", "plnk":
		return strings.HasPrefix(top, aufsPrefix)
	}
	return false
}

func kindOf(h *tar.Header, name string) (Kind, error) {
	switch h.Typeflag {
	case tar.TypeDir, tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo:
		return Makes, nil
	case tar.TypeChar, tar.TypeBlock:
		if strings.HasPrefix(name, "dev/") {
			return Ignored, nil
		}
		return Ignored, errors.New("device nodes outside of /dev are not allowed in a layer: devices come from devfs")
	}
	return Ignored, fmt.Errorf("unknown entry type %q", h.Typeflag)
}

// cleanName is an entry's path from the root, without the slash; empty is the
// root itself.
func cleanName(name string) (string, error) {
	if len(name) > maxName {
		return "", fmt.Errorf("the name is longer than %d bytes", maxName)
	}
	if strings.Contains(name, "\x00") || strings.Contains("/"+name+"/", "/../") {
		return "", errors.New("the name leads out of the root")
	}
	for base := range strings.SplitSeq(name, "/") {
		if len(base) > maxBase {
			return "", fmt.Errorf("the name %.40q... is longer than %d bytes", base, maxBase)
		}
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}
