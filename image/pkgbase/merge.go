package pkgbase

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/freejail/freejail/internal/regular"
)

// Names in a package that are no files of it.
const (
	ownManifest = "+MANIFEST"
	meta        = "+"
)

// Merged is what was written.
type Merged struct {
	Packages []string // NAME-VERSION
	// Scripts are those that pkg(8) would have run: NAME (post-install). None was.
	Scripts []string
}

// Merge writes the files of packages as one tar, whose owners are the numbers that the packages' own master.passwd and
// group have. A file that two packages have, one that differs from its package's manifest, and an owner that is not
// known are errors: what was written is worth nothing then.
func (r *Repository) Merge(ctx context.Context, c *Choice, w io.Writer) (*Merged, error) {
	m := &merger{ctx: ctx, repo: r, out: tar.NewWriter(w), owners: map[string]string{},
		users: map[string]int{"root": 0}, groups: map[string]int{"wheel": 0}, done: &Merged{}}
	for _, p := range c.packages {
		if err := m.readIDs(p); err != nil {
			return nil, err
		}
	}
	for _, p := range c.packages {
		if err := m.take(p); err != nil {
			return nil, err
		}
	}
	return m.done, m.out.Close()
}

type merger struct {
	ctx           context.Context
	repo          *Repository
	out           *tar.Writer
	users, groups map[string]int
	owners        map[string]string // which package a path is of; empty is a directory
	size          int64             // of all files
	done          *Merged
}

// Where names get their numbers: /etc/passwd is made of the first when a system is installed.
const (
	usersFile  = "/etc/master.passwd"
	groupsFile = "/etc/group"
)

const maxIDs = 1 << 20 // bytes

func readMember(h *tar.Header, r io.Reader) (*manifest, error) {
	text, err := regular.Read(r, h.Name, maxManifest)
	if err != nil {
		return nil, err
	}
	m, err := readManifest(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Name, err)
	}
	return m, nil
}

// readIDs reads the users and groups that a package has. Others are read no further than to their manifest.
func (m *merger) readIDs(p *manifest) error {
	err := m.repo.each(m.ctx, p, func(h *tar.Header, r io.Reader) error {
		switch h.Name {
		case ownManifest:
			own, err := readMember(h, r)
			if err != nil {
				return err
			}
			_, users := own.Files[usersFile]
			if _, groups := own.Files[groupsFile]; !users && !groups {
				return errStop
			}
		case usersFile:
			return readNumbers(r, m.users)
		case groupsFile:
			return readNumbers(r, m.groups)
		}
		return nil
	})
	if errors.Is(err, errStop) {
		return nil
	}
	return err
}

// readNumbers reads NAME:PASSWORD:NUMBER:... lines, of which the first of a name counts.
func readNumbers(r io.Reader, to map[string]int) error {
	text, err := regular.Read(r, "it", maxIDs)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if strings.HasPrefix(line, "#") || len(fields) < 3 || seen[fields[0]] {
			continue
		}
		n, err := strconv.ParseUint(fields[2], 10, 31)
		if err != nil {
			return fmt.Errorf("%q is not a number of %q", fields[2], fields[0])
		}
		seen[fields[0]], to[fields[0]] = true, int(n)
	}
	return nil
}

// take writes a package's files.
func (m *merger) take(p *manifest) error {
	var own *manifest
	var left map[string]content
	err := m.repo.each(m.ctx, p, func(h *tar.Header, r io.Reader) (err error) {
		switch {
		case h.Name == ownManifest && own != nil:
			return fmt.Errorf("%s is there twice", ownManifest)
		case h.Name == ownManifest:
			if own, err = readMember(h, r); err != nil {
				return err
			}
			if own.Name != p.Name || own.Version != p.Version {
				return fmt.Errorf("it is %s, and not %s", own, p)
			}
			left = own.Files
			return nil
		case strings.HasPrefix(h.Name, meta):
			return nil
		case own == nil:
			return fmt.Errorf("%s comes before %s", h.Name, ownManifest)
		}
		if err := m.write(p, h, r, left); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if own == nil {
		return fmt.Errorf("%s is not a package: it has no %s", p.Path, ownManifest)
	}
	for name := range left {
		return fmt.Errorf("%s: the file %s of its manifest is missing", p.Path, name)
	}
	m.done.Packages = append(m.done.Packages, p.String())
	if names := own.scripts(); len(names) > 0 {
		m.done.Scripts = append(m.done.Scripts, fmt.Sprintf("%s (%s)", p.Name, strings.Join(names, ", ")))
	}
	return nil
}

// write writes one member, which takes it off what the manifest has.
func (m *merger) write(p *manifest, h *tar.Header, r io.Reader, left map[string]content) error {
	out, err := m.header(h)
	if err != nil {
		return err
	}
	dir := h.Typeflag == tar.TypeDir
	by, known := m.owners[out.Name]
	switch {
	case known && dir && by == "":
		return nil // as another package has it
	case known && by != p.Name:
		return fmt.Errorf("the package %s has it too", by)
	case known:
		return errors.New("it is there twice")
	}
	m.owners[out.Name] = p.Name
	if dir {
		m.owners[out.Name] = ""
		return m.out.WriteHeader(out)
	}
	want, listed := left["/"+out.Name]
	if !listed {
		return errors.New("the package's manifest does not have it")
	}
	delete(left, "/"+out.Name)
	// A sparse file is as large as it says, however little of it is in the package.
	if h.Size > maxUnpacked-m.size {
		return fmt.Errorf("with it the files of the packages have more than %s together", units.BytesSize(maxUnpacked))
	}
	m.size += h.Size
	var s sum
	if want.Sum != noSum {
		if s, err = readSum(want.Sum); err != nil {
			return err
		}
	}
	if err := m.out.WriteHeader(out); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		if want.Link != "" && want.Link != h.Linkname {
			return fmt.Errorf("it leads to %s, and by the manifest to %s", h.Linkname, want.Link)
		}
		return nil
	}
	hash, right := s.begin()
	if _, err := io.Copy(io.MultiWriter(m.out, hash), r); err != nil {
		return err
	}
	if !right() {
		return errors.New("its content is not that of the package's manifest")
	}
	return nil
}

// noSum is in the place of a sum that nobody has made.
const noSum = "-"

// flagsRecord has the flags of a file, as chflags(1) names them.
const flagsRecord = "SCHILY.fflags"

// header is that of the merged archive.
func (m *merger) header(h *tar.Header) (*tar.Header, error) {
	if !slices.Contains([]byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink}, h.Typeflag) {
		return nil, fmt.Errorf("members of the type %q are not known", h.Typeflag)
	}
	name, err := inside(h.Name)
	if err != nil {
		return nil, err
	}
	out := &tar.Header{Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode & 0o7777,
		ModTime: h.ModTime, Format: tar.FormatPAX}
	if h.Typeflag == tar.TypeLink {
		if out.Linkname, err = inside(h.Linkname); err != nil {
			return nil, err
		}
	}
	if out.Uid, err = number(h.Uname, h.Uid, m.users, usersFile); err != nil {
		return nil, err
	}
	if out.Gid, err = number(h.Gname, h.Gid, m.groups, groupsFile); err != nil {
		return nil, err
	}
	if flags := h.PAXRecords[flagsRecord]; flags != "" {
		out.PAXRecords = map[string]string{flagsRecord: flags}
	}
	return out, nil
}

// inside is an absolute path without its slash; one that leads elsewhere is an error.
func inside(name string) (string, error) {
	if !path.IsAbs(name) || strings.Contains(name+"/", "/../") {
		return "", fmt.Errorf("the path %q is not one of a package", name)
	}
	return strings.TrimPrefix(path.Clean(name), "/"), nil
}

// number is that of a name; members without names have numbers.
func number(name string, given int, known map[string]int, file string) (int, error) {
	if name == "" {
		return given, nil
	}
	n, ok := known[name]
	if !ok {
		return 0, fmt.Errorf("its owner %q is not in %s of these packages: add the package that has it "+
			"(FreeBSD-runtime)", name, file)
	}
	return n, nil
}
