package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/sign"
)

// Bounds of what is read of signed documents that refer to an image. What a list of
// referrers announces is verified before anything is fetched: of what others have attached
// beside each costs a signature's verification, and each document of a key is fetched once,
// however often it is attached, and by whichever signature of that key.
const (
	maxReferrers   = 50_000 // looked at
	maxUnannounced = 300    // manifests read because the list has not their annotations
	maxFetched     = 1000   // documents of each key
	maxDocuments   = 100    // kept of each key, that are about the image
	maxStrange     = 10     // kept of each key, that are not
)

// documentsTime is for all of that. Tests of the other bounds have more.
var documentsTime = 30 * time.Second

// Approval is the artifact type of approvals.
const Approval = document.Approval

// Wanted says which signed documents are looked for.
type Wanted struct {
	ArtifactType string
	// Keys are those of whom documents are wanted; none is everybody's.
	Keys []*sign.PublicKey
	// About tells whether a document is about the image with a digest, as it should be.
	About func(digest.Digest, sign.Signature) bool
}

// Documents are what was found.
type Documents struct {
	List   []sign.Signature
	Others int // that were passed over: by other keys, unreadable, or over a bound
}

// Attach puts a signed document beside an image's manifest, which the location names by
// its digest, as something of an artifact type that refers to it. The error is an *Error.
func (c *Client) Attach(ctx context.Context, at Location, s sign.Signature, artifactType string) (err error) {
	defer func() {
		if err != nil {
			err = &Error{"attach to", at.String(), err}
		}
	}()
	src, name, err := c.source(ctx, at, CopyOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.close()) }()
	to, err := src.resolve(ctx, name, nil)
	if err != nil {
		return err
	}
	if at.Kind == Remote && at.Ref.Digest != to.Digest {
		return fmt.Errorf("the registry has %s there", to.Digest)
	}
	blobs, err := sign.Attachment(s, artifactType, to)
	if err != nil {
		return err
	}
	dst, err := c.beside(src, at)
	if err != nil {
		return err
	}
	return dst.finish(ctx, attach(ctx, dst, blobs))
}

// attach pushes what refers to an image.
func attach(ctx context.Context, dst target, blobs []sign.Blob) error {
	if t, ok := dst.(*remoteTarget); ok {
		t.src = memory(blobs)
	}
	for _, b := range blobs {
		there, err := dst.Exists(ctx, b.Descriptor)
		if err == nil && !there {
			err = dst.Push(ctx, b.Descriptor, bytes.NewReader(b.Content))
		}
		if err != nil {
			return err
		}
	}
	return dst.attach(ctx, blobs[len(blobs)-1].Descriptor, "")
}

// Images are those of a location, by their own manifests: of an index all that are in it.
// The error is an *Error.
func (c *Client) Images(ctx context.Context, at Location, limits image.Limits) (list []*image.Image, err error) {
	defer func() {
		if err != nil {
			err = &Error{"read", at.String(), err}
		}
	}()
	src, name, err := c.source(ctx, at, CopyOptions{Limits: limits})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.close()) }()
	root, err := src.resolve(ctx, name, nil)
	if err != nil {
		return nil, err
	}
	all, err := manifestsOf(ctx, src, root)
	for _, d := range all {
		unknown := d.Platform != nil && d.Platform.OS == "unknown" // as attestations are
		if err != nil || document.IsIndex(d.MediaType) || unknown {
			continue
		}
		var img *image.Image
		get := func(d ocispec.Descriptor) ([]byte, error) { return layout.ReadBlob(ctx, src, d) }
		img, _, err = image.Read(get, d)
		list = append(list, img)
	}
	return list, err
}

// Documents are the signed documents that refer to an image's manifest, in all places that
// have some. Those that were read are returned beside an error, which is an *Error.
func (c *Client) Documents(ctx context.Context, at Location, d ocispec.Descriptor, w Wanted) (out Documents,
	err error) {
	src, _, err := c.source(ctx, at, CopyOptions{})
	if err == nil {
		out, err = documents(ctx, src, d, w)
		err = errors.Join(err, src.close())
	}
	if err != nil {
		err = &Error{"read what refers to", at.String(), err}
	}
	return out, err
}

func documents(ctx context.Context, src source, d ocispec.Descriptor, w Wanted) (Documents, error) {
	ctx, cancel := context.WithTimeout(ctx, documentsTime)
	defer cancel()
	s := &search{Wanted: w, src: src, image: d.Digest, tried: map[attempt]bool{}, of: map[string]*tally{}}
	err := src.eachReferrer(ctx, d, w.ArtifactType, func(list []ocispec.Descriptor) error { return s.look(ctx, list) })
	return s.found, errors.Join(err, s.failed, s.missed)
}

// attempt is a payload by a signature of it, or by the fingerprint of the key that has signed it: a key can sign
// anew, and everybody can make a second signature of an ECDSA signature.
type attempt struct {
	payload digest.Digest
	by      string
}

// tally counts the documents of one key, or where everybody's are wanted of all.
type tally struct{ fetched, about, odd int }

// search fetches what the keys have signed.
type search struct {
	Wanted
	src          source
	image        digest.Digest
	found        Documents
	tried        map[attempt]bool
	of           map[string]*tally // by the fingerprint of the key
	looked, read int
	failed       error // of the last document that could not be fetched
	missed       error // the first bound that was reached, behind which something of the keys may be
}

// miss notes that a bound was reached. Of everybody's documents that is nothing to tell.
func (s *search) miss(format string, args ...any) {
	if s.missed == nil && len(s.Keys) > 0 {
		s.missed = fmt.Errorf(format+", and some may be missing here", args...)
	}
}

func (s *search) look(ctx context.Context, list []ocispec.Descriptor) error {
	for _, d := range list {
		if s.looked++; s.looked > maxReferrers {
			return fmt.Errorf("more than %d manifests refer to it", maxReferrers)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		a, ok := s.announced(ctx, d)
		if s.tried[attempt{a.Digest, string(a.Signature)}] {
			continue // it is attached once more
		}
		by, wanted := "", len(s.Keys) == 0
		if i := slices.IndexFunc(s.Keys, a.By); ok && i >= 0 {
			by, wanted = s.Keys[i].Fingerprint(), true
		}
		if !ok || !wanted {
			s.found.Others++
			continue
		}
		s.tried[attempt{a.Digest, string(a.Signature)}] = true
		if by != "" && s.tried[attempt{a.Digest, by}] {
			continue // it is signed once more
		}
		s.tried[attempt{a.Digest, by}] = true
		if s.of[by] == nil {
			s.of[by] = &tally{}
		}
		s.fetch(ctx, a, s.of[by])
	}
	return nil
}

// announced is what a referrer says of its document, in the list or else itself.
func (s *search) announced(ctx context.Context, d ocispec.Descriptor) (a sign.Announced, ok bool) {
	if a, ok = sign.Announcement(d.Annotations); ok {
		return a, true
	}
	if s.read == maxUnannounced {
		s.miss("the registry lists more than %d manifests without their annotations", maxUnannounced)
		return a, false
	}
	s.read++
	b, err := readManifest(ctx, s.src, d)
	if err != nil {
		return a, false
	}
	m, err := document.ReadManifest(b, d.MediaType)
	if err != nil {
		return a, false
	}
	return sign.Announcement(m.Annotations)
}

// fetch keeps a document. One that is not there is no reason to look no further.
func (s *search) fetch(ctx context.Context, a sign.Announced, of *tally) {
	if of.fetched == maxFetched {
		s.miss("more than %d documents by one key refer to it", maxFetched)
		s.found.Others++
		return
	}
	of.fetched++
	b, err := s.payload(ctx, a.Digest)
	if err != nil {
		s.found.Others++
		s.failed = fmt.Errorf("the document %s: %w", a.Digest, err)
		return
	}
	doc := sign.Signature{Payload: b, Signature: a.Signature}
	n, most := &of.about, maxDocuments
	if !s.About(s.image, doc) {
		n, most = &of.odd, maxStrange
	} else if of.about == maxDocuments {
		s.miss("more than %d documents by one key are about it", maxDocuments)
	}
	if *n == most {
		s.found.Others++
		return
	}
	*n++
	s.found.List = append(s.found.List, doc)
}

// payload reads a blob whose size nobody has told.
func (s *search) payload(ctx context.Context, d digest.Digest) ([]byte, error) {
	want := ocispec.Descriptor{MediaType: s.ArtifactType, Digest: d}
	if l, here := s.src.(*local); here {
		if b, ok := l.made[d]; ok {
			return b, nil
		}
		size, err := l.StatBlob(d)
		if err != nil {
			return nil, err
		}
		want.Size = size
	}
	r, _, err := s.src.Open(ctx, want, 0)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, sign.MaxPayload+1))
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	if len(b) > sign.MaxPayload {
		return nil, fmt.Errorf("it has more than %d bytes", sign.MaxPayload)
	}
	if got := digest.FromBytes(b); got != d {
		return nil, blob.Mismatch(d, got)
	}
	return b, nil
}

// copyDocuments copies the approvals of an image.
func (j *job) copyDocuments(ctx context.Context, to ocispec.Descriptor) error {
	var list []ocispec.Descriptor
	err := j.src.eachReferrer(ctx, to, document.Approval, func(more []ocispec.Descriptor) error {
		if list = append(list, more...); len(list) > maxCopied {
			return fmt.Errorf("more than %d refer to it: --no-signatures leaves them behind", maxCopied)
		}
		return nil
	})
	for _, d := range list {
		if err == nil {
			err = j.copyGraph(ctx, d)
		}
		if err == nil {
			err = j.dst.attach(ctx, d, "")
		}
		j.count++
	}
	if err != nil {
		return fmt.Errorf("approvals of %s: %w", to.Digest, err)
	}
	return nil
}
