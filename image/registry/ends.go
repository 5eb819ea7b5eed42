package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/regular"
)

// source opens where an image is copied from, and tells its name there.
func (c *Client) source(ctx context.Context, l Location, o CopyOptions) (source, string, error) {
	switch l.Kind {
	case Remote:
		places, err := c.places(l.Ref, nil)
		return &remoteSource{newOrigin(places), l.Ref}, l.Ref.version(), err
	case Archive, DockerArchive:
		from, err := layout.OpenArchive(ctx, l.Path, o.Limits, o.reading(l))
		return &local{Layout: from, at: l}, l.Name, err
	case Layout, Dir:
		from, err := layout.OpenDirectory(ctx, l.Path, o.Limits)
		return &local{Layout: from, at: l}, l.Name, err
	}
	from, err := layout.Open(l.Path)
	return &local{Layout: from, at: l}, l.Name, err
}

// reading tells how far the reading of an archive is.
func (o CopyOptions) reading(l Location) func(image.Progress) {
	if o.Bytes == nil {
		return nil
	}
	return func(p image.Progress) { o.Bytes("reading "+l.Path, p.Done, p.Size) }
}

func (c *Client) target(l Location, tell func(string, int64, int64)) (target, error) {
	switch l.Kind {
	case Remote:
		p, err := c.place(l.Ref, nil)
		return &remoteTarget{place: p}, err
	case DockerArchive, Dir:
		return nil, fmt.Errorf("%s is not supported as a destination: use oci-archive:FILE or oci:DIR", l)
	case Archive:
		if err := regular.CheckOutput(l.Path, false); err != nil {
			return nil, err
		}
		dir, err := os.MkdirTemp(filepath.Dir(l.Path), ".freejail-archive-")
		if err != nil {
			return nil, err
		}
		to, err := layout.Make(dir)
		return &archive{local{Layout: to, at: l}, dir, tell}, err
	}
	to, err := layout.Make(l.Path)
	return &local{Layout: to, at: l}, err
}

// remoteSource is a registry with its mirrors.
type remoteSource struct {
	*origin
	ref Reference
}

func (s *remoteSource) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	r, at, err := s.Open(ctx, d, 0)
	if err != nil {
		return nil, err
	}
	if at != 0 {
		return nil, errors.Join(fmt.Errorf("blob %s begins at byte %d", d.Digest, at), r.Close())
	}
	return &refusing{verified{blob.Verify(r, d), r}, s, d.Digest}, nil
}

// verified ends with an error where the content is not what was asked for.
type verified struct {
	io.Reader
	io.Closer
}

// refusing has the next try ask elsewhere after such an error.
type refusing struct {
	verified
	from   layout.Fallback
	digest digest.Digest
}

func (v *refusing) Read(p []byte) (int, error) {
	n, err := v.verified.Read(p)
	var wrong *blob.ContentError
	if errors.As(err, &wrong) && v.from.Refuse(v.digest) {
		err = &elsewhereError{err}
	}
	return n, err
}

// elsewhereError is what another place may not have.
type elsewhereError struct{ error }

func (e *elsewhereError) Unwrap() error { return e.error }

func (s *remoteSource) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	for _, p := range s.all() {
		if ok, err := p.Exists(ctx, d); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

func (s *remoteSource) resolve(ctx context.Context, name string, _ []ocispec.Platform) (ocispec.Descriptor, error) {
	d, _, err := s.manifest(ctx, name, "")
	return d, err
}

func (s *remoteSource) attached(ctx context.Context, tag string) (ocispec.Descriptor, error) {
	return s.resolve(ctx, tag, nil)
}

func (s *remoteSource) referrers(ctx context.Context, d ocispec.Descriptor) (out []ocispec.Descriptor, err error) {
	at := s.own
	if p := s.from[d.Digest]; p != nil { // which has the image
		at = p
	}
	err = at.Referrers(ctx, d, "", func(list []ocispec.Descriptor) error {
		if out = append(out, list...); len(out) > maxCopied {
			return fmt.Errorf("more than %d manifests refer to %s", maxCopied, d.Digest)
		}
		return nil
	})
	return out, err
}

// eachReferrer asks the registry and all its mirrors: which of them has something that was
// attached to an image is not told by which has the image.
func (s *remoteSource) eachReferrer(ctx context.Context, d ocispec.Descriptor, artifactType string,
	tell func([]ocispec.Descriptor) error) error {
	var errs []error
	for _, p := range s.all() {
		ctx := s.to(ctx, p)
		err := p.Referrers(ctx, d, artifactType, tell)
		if noReferrers(err) && p.SetReferrersCapability(false) == nil { // then they are under OCI's tag for them
			err = p.Referrers(ctx, d, artifactType, tell)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.ref.Host, err))
		}
	}
	return errors.Join(errs...)
}

// noReferrers tells whether a registry does not know the list of referrers, which the specification
// has it say by 404.
func noReferrers(err error) bool {
	var answer *errcode.ErrorResponse
	return errors.As(err, &answer) && slices.Contains([]int{http.StatusBadRequest, http.StatusMethodNotAllowed,
		http.StatusNotAcceptable, http.StatusNotImplemented}, answer.StatusCode)
}

func (s *remoteSource) close() error { return nil }

// local is a layout.
type local struct {
	*layout.Layout
	at   Location
	made map[digest.Digest][]byte // the blobs of what a store keeps in its own way
}

func (l *local) Open(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	r, at, err := l.Layout.Open(ctx, d, offset)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("blob %s: %w", d.Digest, errdef.ErrNotFound)
	}
	return r, at, err
}

func (l *local) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if b, ok := l.made[d.Digest]; ok {
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	f, _, err := l.Open(ctx, d, 0)
	if err != nil {
		return nil, err
	}
	return verified{blob.Verify(f, d), f}, nil
}

func (l *local) Exists(_ context.Context, d ocispec.Descriptor) (bool, error) {
	size, err := l.StatBlob(d.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && size == d.Size, err
}

func (l *local) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	return l.PutBlob(ctx, d, r)
}

func (l *local) resolve(_ context.Context, name string, wanted []ocispec.Platform) (ocispec.Descriptor, error) {
	return l.Find(name, wanted)
}

func (l *local) attached(_ context.Context, tag string) (ocispec.Descriptor, error) {
	idx, err := l.Index()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, d := range idx.Manifests {
		if l.at.Kind == Store && sign.Tag(d.Digest) == tag {
			return l.madeSignatures(d.Digest)
		}
		if name := nameOf(d); name == tag || strings.HasSuffix(name, ":"+tag) {
			return d, nil
		}
	}
	return ocispec.Descriptor{}, ErrNotFound
}

// madeSignatures makes of what a store knows what other places have beside an
// image. Signatures of an index, which a store does not have, are not among it.
func (l *local) madeSignatures(d digest.Digest) (ocispec.Descriptor, error) {
	r, err := l.Signatures(d)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	own := slices.DeleteFunc(r.Signatures, func(s sign.Signature) bool { return s.Digest() != d })
	if len(own) == 0 {
		return ocispec.Descriptor{}, ErrNotFound
	}
	blobs, err := sign.Manifest(own)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return l.make(blobs), nil
}

func (l *local) referrers(ctx context.Context, to ocispec.Descriptor) (out []ocispec.Descriptor, err error) {
	idx, err := l.Index()
	if err != nil {
		return nil, err
	}
	for _, d := range idx.Manifests {
		if !document.IsManifest(d.MediaType) {
			continue
		}
		b, err := readManifest(ctx, l, d)
		if err != nil {
			return nil, err
		}
		if f, err := readFacts(b, d.MediaType); err == nil && f.subject == to.Digest {
			d.ArtifactType, d.Annotations = f.artifactType, f.annotations
			out = append(out, d)
		}
	}
	return out, nil
}

// eachReferrer makes what others have beside an image of what a store knows of it.
func (l *local) eachReferrer(ctx context.Context, to ocispec.Descriptor, artifactType string,
	tell func([]ocispec.Descriptor) error) error {
	if l.at.Kind == Store {
		list, err := l.madeDocuments(to, artifactType)
		return errors.Join(err, tell(list))
	}
	list, err := l.referrers(ctx, to)
	if err != nil {
		return err
	}
	return tell(slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return d.ArtifactType != artifactType }))
}

// madeDocuments are the manifests that attach what a store has of an image.
func (l *local) madeDocuments(to ocispec.Descriptor, artifactType string) (list []ocispec.Descriptor, err error) {
	docs, err := l.Approvals(to.Digest)
	for _, doc := range docs {
		blobs, err := sign.Attachment(doc, artifactType, to)
		if err != nil {
			return nil, err
		}
		list = append(list, l.make(blobs))
	}
	return list, err
}

// make has blobs at hand that are not in the layout, and returns the last.
func (l *local) make(blobs []sign.Blob) ocispec.Descriptor {
	if l.made == nil {
		l.made = map[digest.Digest][]byte{}
	}
	for _, b := range blobs {
		l.made[b.Descriptor.Digest] = b.Content
	}
	return blobs[len(blobs)-1].Descriptor
}

func (l *local) close() error { return l.Close() }

// tag also notes for which platform an image is, so that one can be chosen.
func (l *local) tag(_ context.Context, d ocispec.Descriptor, name string) error {
	if !document.IsIndex(d.MediaType) && d.Platform == nil {
		d.Platform = l.platform(d)
	}
	return l.Tag(d, name)
}

// platform is nil for what is no image.
func (l *local) platform(d ocispec.Descriptor) *ocispec.Platform {
	b, err := l.ReadBlob(d)
	if err != nil {
		return nil
	}
	m, err := document.ReadManifest(b, d.MediaType)
	if err != nil || !document.IsConfig(m.Config.MediaType) {
		return nil
	}
	if b, err = l.ReadBlob(m.Config); err != nil {
		return nil
	}
	c, err := document.ReadConfig(b, m.Config.MediaType)
	if err != nil || c.OS == "" {
		return nil
	}
	return &c.Platform
}

func (l *local) attach(_ context.Context, d ocispec.Descriptor, tag string) error {
	return l.Tag(d, tag)
}

func (l *local) finish(_ context.Context, err error) error { return errors.Join(err, l.Close()) }

// archive is a layout that becomes a file.
type archive struct {
	local
	dir  string
	tell func(what string, done, total int64)
}

func (a *archive) finish(ctx context.Context, err error) error {
	if err == nil {
		err = a.write(ctx)
	}
	return errors.Join(err, a.Close(), os.RemoveAll(a.dir))
}

func (a *archive) write(ctx context.Context) error {
	total, err := a.size()
	if err != nil {
		return err
	}
	return durable.Replace(a.at.Path, 0o644, func(w io.Writer) error {
		return a.WriteArchive(ctx, &countedWriter{w, 0, func(n int64) {
			if a.tell != nil {
				a.tell("writing "+a.at.Path, min(n, total), total)
			}
		}})
	})
}

// size is that of all blobs.
func (a *archive) size() (n int64, err error) {
	blobs, err := a.Blobs()
	for _, fi := range blobs {
		n += fi.Size()
	}
	return n, err
}

type countedWriter struct {
	io.Writer
	n    int64
	tell func(int64)
}

func (c *countedWriter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	c.tell(c.n)
	return n, err
}

// counted tells of every byte of a blob.
type counted struct {
	content.ReadOnlyStorage
	tell func(int64)
}

func (c *counted) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := c.ReadOnlyStorage.Fetch(ctx, d)
	if err != nil || document.IsManifest(d.MediaType) {
		return r, err
	}
	return &countedReader{r, c.tell}, nil
}

type countedReader struct {
	io.ReadCloser
	tell func(int64)
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.tell(int64(n))
	return n, err
}

// temporary knows what may go better another time.
func temporary(err error) bool {
	var answer *errcode.ErrorResponse
	var network net.Error
	var elsewhere *elsewhereError
	return errors.As(err, &elsewhere) || errors.As(err, &answer) || errors.As(err, &network) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
