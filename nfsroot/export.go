package nfsroot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/freejail/freejail/internal/durable"
)

// Exporter serves images as roots.
type Exporter struct {
	cfg ExportConfig
	mu  sync.Mutex // exporting is rare
}

// NewExporter does nothing yet.
func NewExporter(cfg ExportConfig) *Exporter { return &Exporter{cfg: cfg} }

// Image is what is exported.
type Image struct {
	Name, Digest     string
	Manifest, Config []byte
	// Fill unpacks the layers, and makes what clients will mount on: they cannot.
	Fill func(dir string) error
}

// Exported is one image that is served.
type Exported struct {
	Names  []string
	Digest string
	Path   string
}

// halfMade begins the names of directories that are not whole yet.
const halfMade = ".half-"

// Export has clients find an image by its name and its digest. One that is
// served already gets the name. It appears whole or not at all.
func (e *Exporter) Export(ctx context.Context, img Image) (*Exported, error) {
	dir, err := dirName(img.Digest)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.begin(); err != nil {
		return nil, err
	}
	if err := e.sweep(); err != nil {
		return nil, err
	}
	whole, err := e.has(dir)
	if err == nil && !whole {
		err = e.make(ctx, dir, func(at string) error { return lay(ctx, at, img) })
	}
	if err != nil {
		return nil, fmt.Errorf("export %s: %w", img.Name, err)
	}
	x, err := e.readIndex()
	if err != nil {
		return nil, err
	}
	x.Images = slices.DeleteFunc(x.Images, func(o Entry) bool {
		return strings.TrimSuffix(o.Name, ":latest") == strings.TrimSuffix(img.Name, ":latest")
	})
	x.Images = append(x.Images, Entry{img.Name, img.Digest})
	if err := e.writeIndex(x); err != nil {
		return nil, err
	}
	return &Exported{Names: []string{img.Name}, Digest: img.Digest, Path: filepath.Join(e.cfg.Dir, dir)}, e.end()
}

// lay fills an image's directory.
func lay(ctx context.Context, at string, img Image) error {
	root := filepath.Join(at, rootDir)
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := img.Fill(root); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(at, configFile), img.Config, 0o644),
		os.WriteFile(filepath.Join(at, manifestFile), img.Manifest, 0o644))
}

// makeDir is make where an image is a directory.
func (e *Exporter) makeDir(dir string, fill func(at string) error) error {
	tmp, err := os.MkdirTemp(e.cfg.Dir, halfMade)
	if err != nil {
		return err
	}
	if err = os.Chmod(tmp, 0o755); err == nil {
		err = fill(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(e.cfg.Dir, dir))
	}
	if err != nil {
		return errors.Join(err, e.cfg.RemoveTree(tmp))
	}
	return nil
}

// hasDir tells whether an image's directory is there.
func (e *Exporter) hasDir(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(e.cfg.Dir, dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// sweepDirs removes what an earlier daemon did not finish.
func (e *Exporter) sweepDirs() error {
	entries, err := os.ReadDir(e.cfg.Dir)
	for _, d := range entries {
		if strings.HasPrefix(d.Name(), halfMade) || strings.HasPrefix(d.Name(), durable.Unfinished) {
			err = errors.Join(err, e.cfg.RemoveTree(filepath.Join(e.cfg.Dir, d.Name())))
		}
	}
	return err
}

// List returns what is served.
func (e *Exporter) List() ([]Exported, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x, err := e.readIndex()
	if err != nil {
		return nil, err
	}
	dirs, err := e.images()
	if err != nil {
		return nil, err
	}
	out := []Exported{}
	for _, dir := range dirs {
		ex := Exported{Digest: strings.Replace(dir, "-", ":", 1), Path: filepath.Join(e.cfg.Dir, dir)}
		for _, n := range x.Images {
			if n.Digest == ex.Digest {
				ex.Names = append(ex.Names, n.Name)
			}
		}
		out = append(out, ex)
	}
	return out, nil
}

// images are the directories of images, whole ones alone.
func (e *Exporter) images() ([]string, error) {
	entries, err := os.ReadDir(e.cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, d := range entries {
		digest := strings.Replace(d.Name(), "-", ":", 1)
		if !validDigest.MatchString(digest) {
			continue
		}
		whole, werr := e.has(d.Name())
		if err = errors.Join(err, werr); whole {
			out = append(out, d.Name())
		}
	}
	return out, err
}

// Remove stops serving an image, given by its name there or its digest. By a
// name only the name goes while others mean the same image. Clients that have
// the root mounted lose it.
func (e *Exporter) Remove(ctx context.Context, ref string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	x, err := e.readIndex()
	if err != nil {
		return err
	}
	digest := ref
	if d := x.digestOf(ref); d != "" {
		digest = d
		x.Images = slices.DeleteFunc(x.Images,
			func(o Entry) bool { return strings.TrimSuffix(o.Name, ":latest") == strings.TrimSuffix(ref, ":latest") })
	} else {
		x.Images = slices.DeleteFunc(x.Images, func(o Entry) bool { return o.Digest == ref })
	}
	dirs, err := e.images()
	if err != nil {
		return err
	}
	dir, err := dirName(digest)
	if err != nil || !slices.Contains(dirs, dir) {
		return fmt.Errorf("%w: %q", ErrNotExported, ref)
	}
	if err := e.writeIndex(x); err != nil {
		return err
	}
	if x.nameOf(digest) != "" { // it goes on by another name
		return nil
	}
	if err := e.destroy(ctx, dir); err != nil {
		return fmt.Errorf("remove the export of %s: %w", ref, err)
	}
	return e.end()
}

func (e *Exporter) readIndex() (index, error) {
	var x index
	b, err := os.ReadFile(filepath.Join(e.cfg.Dir, indexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return x, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &x)
	}
	if err != nil {
		return x, fmt.Errorf("%s: %w", filepath.Join(e.cfg.Dir, indexFile), err)
	}
	return x, nil
}

func (e *Exporter) writeIndex(x index) error {
	b, err := json.MarshalIndent(x, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(e.cfg.Dir, indexFile), b, 0o644)
}
