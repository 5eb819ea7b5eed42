package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/regular"
)

// CopyOptions say what of an image is copied.
type CopyOptions struct {
	All       bool             // an index with all its images, instead of the one for Platform
	Platform  ocispec.Platform // the zero platform means this host's, or else any
	Unsigned  bool             // leave signatures and approvals behind
	Referrers bool             // everything that refers to the image: attestations, lists of parts, ...
	Limits    image.Limits     // of archives and stores
	Progress  func(image.Progress)
	// Bytes is told how far the reading or writing of an archive is; it may be nil.
	Bytes func(what string, done, total int64)
	Tell  func(string) // of what is not an error; may be nil
}

// Copied tells what was copied.
type Copied struct {
	Digest    digest.Digest
	Name      string // at the destination; in a registry HOST/NAME:TAG
	Was       string // the name at the source; empty is that it has none
	Attached  int    // signatures and referrers
	MediaType string
}

// source is where images are copied from.
type source interface {
	content.ReadOnlyStorage
	layout.Origin
	// resolve finds an image by its name or tag; of several the best of the
	// wanted platforms, if there are any.
	resolve(ctx context.Context, name string, wanted []ocispec.Platform) (ocispec.Descriptor, error)
	// attached finds what cosign's way of naming ties to a digest.
	attached(ctx context.Context, tag string) (ocispec.Descriptor, error)
	referrers(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error)
	// eachReferrer tells of those of an artifact type, with their annotations.
	eachReferrer(ctx context.Context, d ocispec.Descriptor, artifactType string,
		tell func([]ocispec.Descriptor) error) error
	close() error
}

// target is where images are copied to.
type target interface {
	content.Storage
	tag(ctx context.Context, d ocispec.Descriptor, name string) error
	// attach names something in cosign's way; an empty tag keeps it only.
	attach(ctx context.Context, d ocispec.Descriptor, tag string) error
	// finish makes what was copied last, or after an error leaves what was there.
	finish(ctx context.Context, err error) error
}

// Copy copies an image from one location to another, with its signatures. What
// is there already is not copied again; blobs of another repository of the same
// registry are mounted where it allows that. An archive is replaced when all is
// there. The error is an *Error.
func (c *Client) Copy(ctx context.Context, from, to Location, o CopyOptions) (done Copied, err error) {
	defer func() {
		if err != nil {
			err = &Error{"copy", from.String() + " to " + to.String(), err}
		}
	}()
	if err := sameArchive(from, to); err != nil {
		return done, err
	}
	src, name, err := c.source(ctx, from, o)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, src.close()) }()
	var wanted []ocispec.Platform
	if !o.All {
		wanted = image.Platforms(o.Platform)
	}
	root, err := src.resolve(ctx, name, wanted)
	var indexes [][]byte
	if err == nil && !o.All {
		get := func(d ocispec.Descriptor) ([]byte, error) { return readManifest(ctx, src, d) }
		root, _, indexes, err = image.Narrow(image.IndexesOf(get), root, wanted, "")
	}
	if err == nil && !o.All && o.Platform.OS != "" { // one that no index tells of may be for another
		err = checkPlatform(ctx, src, root, wanted)
	}
	if err != nil {
		return done, err
	}
	done = Copied{Digest: root.Digest, MediaType: root.MediaType, Was: from.Name}
	if l, ok := src.(*local); !ok {
		done.Was = from.Ref.Name()
	} else if from.Name == "" {
		done.Was = l.nameOf(root)
	}
	done.Name = targetName(to, done.Was)
	if to.Kind == Store {
		done.Attached, err = copyToStore(ctx, src, root, indexes, done.Name, to.Path, o)
		return done, err
	}
	dst, err := c.target(to, o.Bytes)
	if err != nil {
		return done, err
	}
	j := &job{src: src, dst: dst, opts: o, from: from, to: to}
	if t, ok := dst.(*remoteTarget); ok {
		t.src, t.moved, t.root = &counted{src, j.moved}, j.moved, root.Digest
	}
	if err = j.copyGraph(ctx, root); err == nil {
		err = j.copyAttached(ctx, root)
	}
	if err == nil {
		tag := done.Name
		if to.Kind == Remote {
			tag = to.Ref.version()
		}
		err = dst.tag(ctx, root, tag)
	}
	done.Attached = j.count
	return done, dst.finish(ctx, err)
}

func checkPlatform(ctx context.Context, src source, d ocispec.Descriptor, wanted []ocispec.Platform) error {
	img, _, err := image.Read(func(d ocispec.Descriptor) ([]byte, error) { return layout.ReadBlob(ctx, src, d) }, d)
	if err != nil {
		return err
	}
	return img.Fits(wanted)
}

// sameArchive refuses to replace an archive, or a file of a layout, by a part of itself.
func sameArchive(from, to Location) error {
	if from.Kind == Remote || to.Kind != Archive {
		return nil
	}
	a, err1 := os.Stat(from.Path)
	b, err2 := os.Stat(to.Path)
	if err1 == nil && err2 == nil && os.SameFile(a, b) {
		return fmt.Errorf("%s is the source itself, and would be replaced: give another file", to.Path)
	}
	if err1 != nil || !a.IsDir() {
		return nil
	}
	within, err := regular.Within(to.Path, a)
	if within {
		err = fmt.Errorf("%s lies in the source %s: give a file elsewhere", to.Path, from.Path)
	}
	return err
}

// targetName is the name at the destination; if that says none, it is what the source calls it.
func targetName(to Location, name string) string {
	if to.Kind == Remote {
		return to.Ref.Name()
	}
	return cmp.Or(to.Name, name)
}

func readManifest(ctx context.Context, src content.Fetcher, d ocispec.Descriptor) ([]byte, error) {
	if d.Size < 0 || d.Size > maxManifest {
		return nil, fmt.Errorf("the manifest %s has %d bytes: at most %d are allowed", d.Digest, d.Size, maxManifest)
	}
	b, err := content.FetchAll(ctx, src, d)
	if err == nil {
		err = document.Check(b, d.MediaType)
	}
	if err != nil {
		return nil, fmt.Errorf("the manifest %s: %w", d.Digest, err)
	}
	return b, nil
}

// job is one copy.
type job struct {
	src      source
	dst      target
	opts     CopyOptions
	from, to Location
	count    int

	mu    sync.Mutex
	p     image.Progress
	below map[digest.Digest][]ocispec.Descriptor
	seen  map[digest.Digest]bool
}

// copyGraph copies a manifest with all that it names.
func (j *job) copyGraph(ctx context.Context, root ocispec.Descriptor) error {
	j.below, j.seen = map[digest.Digest][]ocispec.Descriptor{}, map[digest.Digest]bool{}
	if err := j.survey(ctx, root, 0); err != nil {
		return err
	}
	opts := oras.CopyGraphOptions{Concurrency: connections, MaxMetadataBytes: maxManifest,
		FindSuccessors: func(_ context.Context, _ content.Fetcher, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
			return j.below[d.Digest], nil
		},
		OnCopySkipped: func(_ context.Context, d ocispec.Descriptor) error { j.skipped(d); return nil },
		OnMounted:     func(_ context.Context, d ocispec.Descriptor) error { j.skipped(d); return nil },
		PostCopy:      func(_ context.Context, d ocispec.Descriptor) error { j.arrived(d); return nil },
	}
	if j.from.Kind == Remote && j.to.Kind == Remote && j.from.Ref.Host == j.to.Ref.Host &&
		j.from.Ref.Repository != j.to.Ref.Repository {
		opts.MountFrom = func(context.Context, ocispec.Descriptor) ([]string, error) {
			return []string{j.from.Ref.Repository}, nil
		}
	}
	src := &counted{j.src, j.moved}
	for try := 1; ; try++ { // what is there already is passed over
		err := oras.CopyGraph(ctx, src, j.dst, root, opts)
		if err == nil || final(err) || ctx.Err() != nil || try == 3 || !temporary(err) {
			return err
		}
		select {
		case <-time.After(backoff << try):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// survey finds out what there is to copy. Layers that need not be with their image, and
// are not, stay where they are.
func (j *job) survey(ctx context.Context, d ocispec.Descriptor, depth int) error {
	if j.seen[d.Digest] {
		return nil
	}
	j.seen[d.Digest] = true
	if !document.IsManifest(d.MediaType) {
		j.p.Layers++
		j.p.Size += d.Size
		return nil
	}
	if depth > maxIndexes {
		return errors.New("too many indexes within each other")
	}
	b, err := readManifest(ctx, j.src, d)
	if err != nil {
		return err
	}
	f, err := readFacts(b, d.MediaType)
	if err != nil {
		return fmt.Errorf("the manifest %s: %w", d.Digest, err)
	}
	for _, below := range f.names {
		if len(below.URLs) > 0 || document.IsForeign(below.MediaType) {
			if there, err := j.src.Exists(ctx, below); err != nil {
				return err
			} else if !there {
				continue
			}
			below.MediaType, below.URLs = ocispec.MediaTypeImageLayer, nil // or it would be passed over later
		}
		j.below[d.Digest] = append(j.below[d.Digest], below)
		if err := j.survey(ctx, below, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (j *job) change(f func(*image.Progress)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f(&j.p)
	if j.opts.Progress != nil {
		j.opts.Progress(j.p)
	}
}

func (j *job) moved(n int64) { j.change(func(p *image.Progress) { p.Done += n }) }

func (j *job) arrived(d ocispec.Descriptor) {
	if !document.IsManifest(d.MediaType) {
		j.change(func(p *image.Progress) { p.LayersDone++ })
	}
}

// skipped counts what was there already, with all below it.
func (j *job) skipped(d ocispec.Descriptor) {
	if !document.IsManifest(d.MediaType) {
		j.change(func(p *image.Progress) { p.LayersDone++; p.Done += d.Size })
		return
	}
	for _, below := range j.below[d.Digest] {
		j.skipped(below)
	}
}

// AttachedTag is cosign's name for what is tied to a digest: kind is sig, att or
// sbom.
func AttachedTag(d digest.Digest, kind string) string {
	return d.Algorithm().String() + "-" + d.Encoded() + "." + kind
}

// copyAttached copies signatures and approvals, and with Referrers whatever else refers to
// the image or to one of its index.
func (j *job) copyAttached(ctx context.Context, root ocispec.Descriptor) error {
	manifests := []ocispec.Descriptor{root}
	for _, below := range j.below[root.Digest] {
		if document.IsManifest(below.MediaType) {
			manifests = append(manifests, below)
		}
	}
	kinds := []string{"sig"}
	if j.opts.Referrers {
		kinds = append(kinds, "att", "sbom")
	}
	if j.opts.Unsigned {
		kinds = kinds[1:]
	}
	for _, m := range manifests {
		for _, kind := range kinds {
			if err := j.copyTagged(ctx, AttachedTag(m.Digest, kind)); err != nil {
				return err
			}
		}
		switch {
		case j.opts.Referrers: // approvals among them
			if err := j.copyReferrers(ctx, m, 0); err != nil {
				return err
			}
		case !j.opts.Unsigned:
			if err := j.copyDocuments(ctx, m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (j *job) copyTagged(ctx context.Context, tag string) error {
	d, err := j.src.attached(ctx, tag)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", tag, err)
	}
	if err := j.copyGraph(ctx, d); err != nil {
		return fmt.Errorf("%s: %w", tag, err)
	}
	j.count++
	return j.dst.attach(ctx, d, tag)
}

func (j *job) copyReferrers(ctx context.Context, to ocispec.Descriptor, depth int) error {
	if depth > maxIndexes {
		return nil
	}
	list, err := j.src.referrers(ctx, to)
	if err != nil {
		return fmt.Errorf("referrers of %s: %w", to.Digest, err)
	}
	for _, d := range list {
		if err := j.copyGraph(ctx, d); err != nil {
			return fmt.Errorf("referrer %s: %w", d.Digest, err)
		}
		j.count++
		if err := j.dst.attach(ctx, d, ""); err != nil {
			return err
		}
		if err := j.copyReferrers(ctx, d, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// copyToStore takes one image into a store of this host, and tells with how many
// signatures.
func copyToStore(ctx context.Context, src source, d ocispec.Descriptor, indexes [][]byte, name, dir string,
	o CopyOptions) (n int, err error) {
	if document.IsIndex(d.MediaType) {
		return 0, errors.New("a store keeps one image of an index: leave out --all, or give --platform")
	}
	if o.Referrers {
		return 0, errors.New("of what refers to an image, a store keeps signatures alone: leave out --referrers")
	}
	var signed sign.Record
	var approved Documents
	if !o.Unsigned {
		if signed, err = signaturesOf(ctx, src, d.Digest, indexes); err != nil {
			return 0, err
		}
		everybodys := Wanted{ArtifactType: Approval, About: func(digest.Digest, sign.Signature) bool { return true }}
		if approved, err = documents(ctx, src, d, everybodys); err != nil {
			return 0, err
		}
	}
	s, err := layout.OpenStore(dir, o.Limits)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if name == "" {
		name = d.Digest.Encoded()[:12]
	}
	fetch := layout.FetchOptions{Wanted: image.Platforms(o.Platform), Progress: o.Progress, Indexes: indexes}
	if _, err = s.Fetch(ctx, src, d, name, fetch); err != nil {
		return 0, err
	}
	return len(signed.Signatures) + len(approved.List), errors.Join(s.AddSignatures(d.Digest, signed),
		s.AddApprovals(d.Digest, approved.List))
}
