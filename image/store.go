package image

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrNotFound means that no image has this name or digest.
var ErrNotFound = errors.New("no such image")

// Limits bound what an image may unpack to. 0 is the default.
type Limits struct {
	LayerBytes int64 // default 8 GiB
	ImageBytes int64 // default 16 GiB
	Entries    int64 // default 1,000,000
}

func (l Limits) withDefaults() Limits {
	def := func(n *int64, v int64) {
		if *n <= 0 {
			*n = v
		}
	}
	def(&l.LayerBytes, 8<<30)
	def(&l.ImageBytes, 16<<30)
	def(&l.Entries, 1_000_000)
	return l
}

// Image is one image of the store.
type Image struct {
	Name     string
	Digest   digest.Digest // of the OCI image manifest
	Config   ocispec.Image
	Manifest *Manifest // never nil; empty where the image has none
	Layers   []ocispec.Descriptor
	ChainID  digest.Digest
	Size     int64 // of the layers as they are stored
	Created  time.Time
}

// Store keeps images in an OCI layout directory. Blobs are written whole or not
// at all; several goroutines may import the same image at once.
type Store struct {
	dir    string
	limits Limits
	mu     sync.Mutex // guards the index file
}

// refName is the annotation that OCI layouts give a manifest's name with.
const refName = ocispec.AnnotationRefName

// OpenStore opens or makes a store.
func OpenStore(dir string, l Limits) (*Store, error) {
	s := &Store{dir: dir, limits: l.withDefaults()}
	for _, d := range []string{s.blobDir(), filepath.Join(dir, "tmp")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	// What was being imported when the last daemon ended is of no use.
	if err := removeContents(filepath.Join(dir, "tmp")); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	layout := filepath.Join(dir, ocispec.ImageLayoutFile)
	if _, err := os.Stat(layout); err == nil {
		return s, nil
	}
	return s, os.WriteFile(layout, []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600)
}

func removeContents(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

func (s *Store) blobDir() string { return filepath.Join(s.dir, "blobs", "sha256") }

func (s *Store) blobPath(d digest.Digest) string { return filepath.Join(s.blobDir(), d.Encoded()) }

func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d, err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %q: only sha256 is taken", d)
	}
	return nil
}

func (s *Store) readIndex() (ocispec.Index, error) {
	var idx ocispec.Index
	b, err := os.ReadFile(filepath.Join(s.dir, ocispec.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		idx.SchemaVersion = 2
		idx.MediaType = ocispec.MediaTypeImageIndex
		return idx, nil
	}
	if err != nil {
		return idx, err
	}
	return idx, json.Unmarshal(b, &idx)
}

func (s *Store) writeIndex(idx ocispec.Index) error {
	b, err := json.Marshal(idx)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(s.dir, "tmp"), filepath.Join(s.dir, ocispec.ImageIndexFile), b)
}

// writeFile replaces a file in one step.
func writeFile(tmpDir, final string, b []byte) error {
	f, err := os.CreateTemp(tmpDir, "file-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), final)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// putBlob stores what r gives if it is what the descriptor says.
func (s *Store) putBlob(ctx context.Context, r io.Reader, d ocispec.Descriptor) error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, "tmp"), "blob-")
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(ctxReader{ctx, r}, d.Size+1))
	switch got := digest.NewDigest(digest.SHA256, h); {
	case err != nil:
	case n > d.Size:
		err = fmt.Errorf("blob %s is longer than the %d bytes that its descriptor says", d.Digest, d.Size)
	case n != d.Size:
		err = fmt.Errorf("blob %s has %d bytes, its descriptor says %d", d.Digest, n, d.Size)
	case got != d.Digest:
		err = fmt.Errorf("blob %s has another content: its digest is %s", d.Digest, got)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), s.blobPath(d.Digest))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// Get finds an image by its name (with or without :latest), its digest, or the
// beginning of a digest of at least 6 characters.
func (s *Store) Get(ref string) (*Image, error) {
	s.mu.Lock()
	idx, err := s.readIndex()
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var found *ocispec.Descriptor
	hex := strings.TrimPrefix(ref, "sha256:")
	for i, d := range idx.Manifests {
		name := d.Annotations[refName]
		if name == ref || name == ref+":latest" || name+":latest" == ref {
			return s.load(d)
		}
		if len(hex) >= 6 && strings.HasPrefix(d.Digest.Encoded(), hex) {
			if found != nil && found.Digest != d.Digest {
				return nil, fmt.Errorf("%q is the beginning of several digests", ref)
			}
			found = &idx.Manifests[i]
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, ref)
	}
	return s.load(*found)
}

// List returns all images by name.
func (s *Store) List() ([]*Image, error) {
	s.mu.Lock()
	idx, err := s.readIndex()
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var out []*Image
	for _, d := range idx.Manifests {
		img, err := s.load(d)
		if err != nil {
			return nil, err
		}
		out = append(out, img)
	}
	slices.SortFunc(out, func(a, b *Image) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Remove forgets an image's name. Its blobs stay until GC.
func (s *Store) Remove(ref string) error {
	img, err := s.Get(ref)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	idx, err := s.readIndex()
	if err != nil {
		return err
	}
	idx.Manifests = slices.DeleteFunc(idx.Manifests, func(d ocispec.Descriptor) bool {
		return d.Digest == img.Digest && d.Annotations[refName] == img.Name
	})
	return s.writeIndex(idx)
}

// GC deletes the blobs that no image names and returns how many bytes that
// freed. No import may run at the same time.
func (s *Store) GC(context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	idx, err := s.readIndex()
	if err != nil {
		return 0, err
	}
	used := map[string]bool{}
	for _, d := range idx.Manifests {
		m, err := s.manifestOf(d)
		if err != nil {
			return 0, err
		}
		used[d.Digest.Encoded()], used[m.Config.Digest.Encoded()] = true, true
		for _, l := range m.Layers {
			used[l.Digest.Encoded()] = true
		}
	}
	entries, err := os.ReadDir(s.blobDir())
	if err != nil {
		return 0, err
	}
	var freed int64
	for _, e := range entries {
		if used[e.Name()] {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			return freed, err
		}
		if err := os.Remove(filepath.Join(s.blobDir(), e.Name())); err != nil {
			return freed, err
		}
		freed += fi.Size()
	}
	return freed, nil
}

func (s *Store) manifestOf(d ocispec.Descriptor) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	b, err := s.smallBlob(d)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		return m, fmt.Errorf("image manifest %s: %w", d.Digest, err)
	}
	return m, nil
}

// maxSmallBlob bounds manifests and configs, which are held in memory.
const maxSmallBlob = 8 << 20

func (s *Store) smallBlob(d ocispec.Descriptor) ([]byte, error) {
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	if d.Size > maxSmallBlob {
		return nil, fmt.Errorf("blob %s: %d bytes are over the limit of %d", d.Digest, d.Size, maxSmallBlob)
	}
	b, err := os.ReadFile(s.blobPath(d.Digest))
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(b); got != d.Digest {
		return nil, fmt.Errorf("blob %s has another content: its digest is %s", d.Digest, got)
	}
	return b, nil
}

// load reads an image's manifest and config.
func (s *Store) load(d ocispec.Descriptor) (*Image, error) {
	m, err := s.manifestOf(d)
	if err != nil {
		return nil, err
	}
	img := &Image{Name: d.Annotations[refName], Digest: d.Digest, Layers: m.Layers}
	b, err := s.smallBlob(m.Config)
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	if err := json.Unmarshal(b, &img.Config); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	diffs := img.Config.RootFS.DiffIDs
	if len(diffs) != len(m.Layers) {
		return nil, fmt.Errorf("the image has %d layers, its config names %d", len(m.Layers), len(diffs))
	}
	for _, l := range m.Layers {
		if _, err := decompressorFor(l.MediaType); err != nil {
			return nil, err
		}
		img.Size += l.Size
	}
	if img.ChainID, err = chainID(diffs); err != nil {
		return nil, err
	}
	if img.Config.Created != nil {
		img.Created = *img.Config.Created
	}
	img.Manifest = &Manifest{SchemaVersion: 1}
	if text, ok := img.Config.Config.Labels[ManifestLabel]; ok {
		if img.Manifest, err = ParseManifest([]byte(text)); err != nil {
			return nil, err
		}
	}
	for i, p := range img.Manifest.Ports {
		if p.Protocol == "" {
			img.Manifest.Ports[i].Protocol = "tcp"
		}
	}
	return img, nil
}

// chainID is the OCI image specification's name for layers applied in order.
func chainID(diffs []digest.Digest) (digest.Digest, error) {
	chain := digest.FromString("") // an image without layers
	for i, d := range diffs {
		if err := checkDigest(d); err != nil {
			return "", fmt.Errorf("rootfs.diff_ids[%d]: %w", i, err)
		}
		if i == 0 {
			chain = d
		} else {
			chain = digest.FromString(chain.String() + " " + d.String())
		}
	}
	return chain, nil
}

// fits prefers the host's system; a FreeBSD host can run Linux images too.
func fits(p *ocispec.Platform, goos string) bool {
	return p == nil || p.OS == "" || p.OS == goos && p.Architecture == runtime.GOARCH
}
