// Package pkgbase reads FreeBSD's packages of the base system, as pkg(8) makes them: from a repository with a signed
// catalogue, from a directory, or from files. It runs nothing of theirs.
package pkgbase

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/internal/near"
	"github.com/freejail/freejail/internal/regular"
)

// catalogueFile is the catalogue of a repository, with its signatures.
const (
	catalogueFile = "packagesite.pkg"
	catalogueName = "packagesite.yaml"
)

// Ending is that of a package's file.
const Ending = ".pkg"

// Repository has packages to choose from.
type Repository struct {
	name     string // for messages
	root     *os.Root
	packages map[string]*manifest // the newest of each name
	all      bool                 // files were named: they are chosen already
	Signed   bool                 // the catalogue is by a trusted key
}

// Open opens a repository or a directory of packages. With fingerprints, a directory as
// pkg.conf(5) has it, the catalogue must be signed by one of these keys.
func Open(ctx context.Context, dir, fingerprints string) (_ *Repository, err error) {
	root, err := regular.Root(dir)
	if err != nil {
		return nil, err
	}
	r := &Repository{name: dir, root: root, packages: map[string]*manifest{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", dir, err), root.Close())
		}
	}()
	if _, err := root.Stat(catalogueFile); err == nil {
		return r, r.readCatalogue(ctx, fingerprints)
	}
	if fingerprints != "" {
		return nil, fmt.Errorf("there is no %s to verify by --fingerprints", catalogueFile)
	}
	list, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if strings.HasSuffix(e.Name(), Ending) {
			if err := r.addFile(ctx, e.Name()); err != nil {
				return nil, err
			}
		}
	}
	if len(r.packages) == 0 {
		return nil, fmt.Errorf("there is neither %s nor a package (%s)", catalogueFile, "*"+Ending)
	}
	return r, nil
}

// OpenFiles takes packages in files of one directory: all of them.
func OpenFiles(ctx context.Context, files []string) (_ *Repository, err error) {
	dir := filepath.Dir(files[0])
	root, err := regular.Root(dir)
	if err != nil {
		return nil, err
	}
	r := &Repository{name: dir, root: root, packages: map[string]*manifest{}, all: true}
	for _, f := range files {
		if filepath.Dir(f) != dir {
			return nil, errors.Join(errors.New("packages have to be in one directory"), root.Close())
		}
		if err := r.addFile(ctx, filepath.Base(f)); err != nil {
			return nil, errors.Join(err, root.Close())
		}
	}
	return r, nil
}

// Close lets go of it.
func (r *Repository) Close() error { return r.root.Close() }

// errStop ends a look at a package.
var errStop = errors.New("stop")

// addFile takes a package that no catalogue names, by its own manifest.
func (r *Repository) addFile(ctx context.Context, file string) error {
	var m *manifest
	err := r.each(ctx, &manifest{Path: file}, func(h *tar.Header, rd io.Reader) (err error) {
		if h.Name != ownManifest {
			return nil
		}
		if m, err = readMember(h, rd); err != nil {
			return err
		}
		return errStop
	})
	if err != nil && !errors.Is(err, errStop) {
		return err
	}
	if m == nil {
		return fmt.Errorf("%s is not a package: it has no %s", file, ownManifest)
	}
	m.Path, m.Files = file, nil
	return r.add(m)
}

func (r *Repository) add(m *manifest) error {
	if old, ok := r.packages[m.Name]; !ok || newer(m.Version, old.Version) {
		r.packages[m.Name] = m
	}
	if len(r.packages) > maxPackages {
		return fmt.Errorf("more than %d packages", maxPackages)
	}
	return nil
}

func (r *Repository) readCatalogue(ctx context.Context, fingerprints string) error {
	var text []byte
	var sigs signatures
	err := r.each(ctx, &manifest{Path: catalogueFile}, func(h *tar.Header, rd io.Reader) (err error) {
		switch {
		case h.Name == catalogueName && text != nil:
			return fmt.Errorf("%s is there twice", catalogueName)
		case h.Name == catalogueName:
			text, err = regular.Read(rd, catalogueName, maxCatalogue)
			return err
		case strings.HasSuffix(h.Name, ".sig"), strings.HasSuffix(h.Name, ".pub"):
			data, err := regular.Read(rd, h.Name, maxSignature)
			if err != nil {
				return err
			}
			return sigs.add(h.Name, data)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if text == nil {
		return fmt.Errorf("%s has no %s", catalogueFile, catalogueName)
	}
	if fingerprints != "" {
		t, err := readTrust(fingerprints)
		if err != nil {
			return err
		}
		if err := sigs.verify(text, t); err != nil {
			return err
		}
		r.Signed = true
	}
	return r.readLines(text)
}

// readLines reads a manifest of each line.
func (r *Repository) readLines(text []byte) error {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		m, err := readManifest(line)
		if err != nil {
			return fmt.Errorf("%s:%d: %w", catalogueName, n, err)
		}
		if m.sum, err = readSum(m.Sum); err != nil {
			return fmt.Errorf("%s:%d: %s: %w", catalogueName, n, m, err)
		}
		if m.Path == "" || path.IsAbs(m.Path) {
			return fmt.Errorf("%s:%d: the path of %s is %q", catalogueName, n, m, m.Path)
		}
		if err := r.add(m); err != nil {
			return err
		}
	}
	return nil
}

// each visits the members of a package or of the catalogue. Where the sum of the file is known all of it must have
// that sum: what was visited before is worth nothing otherwise.
func (r *Repository) each(ctx context.Context, m *manifest, visit func(*tar.Header, io.Reader) error) (err error) {
	f, _, err := regular.OpenIn(r.root, m.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hash, right := m.sum.begin()
	raw := io.TeeReader(blob.WithContext(ctx, f), hash)
	if err := eachMember(ctx, raw, visit); err != nil {
		if errors.Is(err, errStop) {
			return err
		}
		return fmt.Errorf("%s: %w", m.Path, err)
	}
	if _, err := io.Copy(io.Discard, raw); err != nil {
		return err
	}
	if !right() {
		return fmt.Errorf("%s is not what the catalogue names: its sum is not %s: fetch it again", m.Path, m.Sum)
	}
	return nil
}

// maxUnpacked bounds what one file unpacks to, in bytes: the limit of a layer.
const maxUnpacked = 8 << 30

func eachMember(ctx context.Context, raw io.Reader, visit func(*tar.Header, io.Reader) error) error {
	br := blob.Buffered(raw)
	release, err := blob.Reserve(ctx, br, 0)
	if err != nil {
		return err
	}
	defer release()
	z, err := blob.Decompress(br)
	if err != nil {
		return err
	}
	defer z.Close()
	tr := tar.NewReader(blob.Limit(blob.WithContext(ctx, z), new(int64), maxUnpacked, "layer_size"))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("not a package: %w", blob.CutOff(err))
		}
		if err := visit(h, tr); err != nil {
			return err
		}
	}
}

// Sets are the names of those packages that only name others.
func (r *Repository) Sets() (names []string) {
	for name := range r.packages {
		if strings.Contains(name, "-set-") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Choice are packages with all that they need, by name.
type Choice struct {
	packages []*manifest
	// Missing are libraries and the like that none of the repository provides, each with who needs it.
	Missing []string
}

// Choose takes packages and what they depend on, for an architecture as images name it.
func (r *Repository) Choose(names []string, arch string) (*Choice, error) {
	chosen, c := map[string]*manifest{}, &Choice{}
	if r.all {
		for name := range r.packages {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: no packages were named: add --packages NAME,...%s", r.name, r.hint())
	}
	queue := slices.Sorted(slices.Values(names))
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		if chosen[name] != nil {
			continue
		}
		m, err := r.find(name, arch)
		if err != nil {
			return nil, err
		}
		chosen[name] = m
		for dep := range m.Deps {
			if r.packages[dep] == nil && r.all {
				c.Missing = append(c.Missing, fmt.Sprintf("%s, which %s depends on", dep, m))
				continue
			}
			queue = append(queue, dep)
		}
		queue = append(queue, r.providers(m, chosen, c)...)
		slices.Sort(queue)
	}
	for _, m := range chosen {
		c.packages = append(c.packages, m)
	}
	slices.SortFunc(c.packages, func(a, b *manifest) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(c.Missing)
	return c, nil
}

func (r *Repository) hint() string {
	if sets := r.Sets(); len(sets) > 0 {
		return " (the sets are " + strings.Join(sets, ", ") + ")"
	}
	return ""
}

func (r *Repository) find(name, arch string) (*manifest, error) {
	m := r.packages[name]
	if m == nil {
		return nil, fmt.Errorf("%s has no package %q%s", r.name, name, r.near(name))
	}
	if strings.HasPrefix(strings.TrimPrefix(name, "FreeBSD-"), "kernel") {
		return nil, fmt.Errorf("%s: a jail runs on the host's kernel: leave it out", name)
	}
	return m, m.fits(arch)
}

// near is a hint at the name that was meant.
func (r *Repository) near(name string) string {
	var known []string
	for k := range r.packages {
		known = append(known, strings.ToLower(k))
	}
	slices.Sort(known)
	hint := near.Hint(name, known)
	for k := range r.packages {
		if strings.Contains(hint, " "+strings.ToLower(k)+"?") {
			return strings.Replace(hint, strings.ToLower(k), k, 1)
		}
	}
	return hint
}

// providers are packages that give what one needs besides its dependencies, such as libraries.
func (r *Repository) providers(m *manifest, chosen map[string]*manifest, c *Choice) (names []string) {
	gives := func(p *manifest, what string) bool {
		return slices.Contains(p.Gives, what) || slices.Contains(p.Provides, what)
	}
	for _, what := range slices.Concat(m.Needs, m.Requires) {
		var by []string
		for name, p := range r.packages {
			if gives(p, what) {
				by = append(by, name)
			}
		}
		slices.Sort(by)
		switch {
		case len(by) == 0:
			c.Missing = append(c.Missing, fmt.Sprintf("%s, which %s needs", what, m))
		case !slices.ContainsFunc(by, func(name string) bool { return chosen[name] != nil }):
			names = append(names, by[0]) // with the shortest name, where several have it
		}
	}
	return names
}
