package registry

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
)

// facts are what a manifest says of others and of itself.
type facts struct {
	names        []ocispec.Descriptor // config and layers, or the manifests of an index
	subject      digest.Digest
	artifactType string
	annotations  map[string]string
}

func readFacts(b []byte, mediaType string) (*facts, error) {
	bad := func(err error) (*facts, error) {
		return nil, fail(http.StatusBadRequest, "MANIFEST_INVALID", "the manifest: %v", err)
	}
	if document.IsIndex(mediaType) {
		x, err := document.ReadIndex(b, mediaType)
		if err != nil {
			return bad(err)
		}
		return newFacts(x.Manifests, x.Subject, x.ArtifactType, x.Annotations)
	}
	m, err := document.ReadManifest(b, mediaType)
	if err != nil {
		return bad(err)
	}
	names := append([]ocispec.Descriptor{m.Config}, m.Layers...)
	return newFacts(names, m.Subject, cmp.Or(m.ArtifactType, m.Config.MediaType), m.Annotations)
}

func newFacts(names []ocispec.Descriptor, subject *ocispec.Descriptor, artifactType string,
	annotations map[string]string) (*facts, error) {
	f := &facts{names: names, artifactType: artifactType, annotations: annotations}
	if subject != nil {
		f.subject = subject.Digest
		if _, err := parseDigest(f.subject.String()); err != nil {
			return nil, err
		}
	}
	for _, d := range names {
		if _, err := parseDigest(d.Digest.String()); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// factsOf reads a manifest that is there.
func (r *repo) factsOf(d ocispec.Descriptor) (*facts, error) {
	if f, ok := r.facts.Load(d.Digest); ok {
		return f.(*facts), nil
	}
	b, err := r.layout.ReadBlob(d)
	if err != nil {
		return nil, err
	}
	f, err := readFacts(b, d.MediaType)
	if err == nil {
		r.facts.Store(d.Digest, f)
	}
	return f, err
}

func (s *Server) manifest(w http.ResponseWriter, r *http.Request, name, version string) error {
	d := digest.Digest(version)
	if !tagName.MatchString(version) {
		var err error
		if d, err = parseDigest(version); err != nil {
			return fail(http.StatusNotFound, "MANIFEST_UNKNOWN", "%q is not a valid tag or digest", shortened(version))
		}
	}
	repo, err := s.repo(name, r.Method == http.MethodPut)
	if err != nil {
		return err
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return repo.sendManifest(w, version)
	case http.MethodPut:
		return repo.putManifest(w, r, version, d)
	case http.MethodDelete:
		if err := repo.deleteManifest(version); err != nil {
			return err
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	return fail(http.StatusMethodNotAllowed, "UNSUPPORTED",
		"method not allowed: a manifest supports GET, HEAD, PUT and DELETE")
}

// nameOf is the tag of an entry of the index.
func nameOf(d ocispec.Descriptor) string { return d.Annotations[ocispec.AnnotationRefName] }

func (r *repo) find(version string) (ocispec.Descriptor, error) {
	idx, err := r.layout.Index()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, d := range idx.Manifests {
		if nameOf(d) == version || d.Digest.String() == version {
			return d, nil
		}
	}
	return ocispec.Descriptor{}, fail(http.StatusNotFound, "MANIFEST_UNKNOWN", "there is no manifest %s in %s",
		version, r.name)
}

func (r *repo) sendManifest(w http.ResponseWriter, version string) error {
	d, err := r.find(version)
	if err != nil {
		return err
	}
	b, err := r.layout.ReadBlob(d)
	if errors.Is(err, fs.ErrNotExist) {
		return fail(http.StatusNotFound, "MANIFEST_UNKNOWN", "the manifest %s in %s is missing", version, r.name)
	}
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", d.MediaType)
	h.Set("Docker-Content-Digest", d.Digest.String())
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("ETag", strconv.Quote(d.Digest.String()))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(b) // of a HEAD nothing is sent; the client may be gone
	return nil
}

func (r *repo) putManifest(w http.ResponseWriter, req *http.Request, version string, want digest.Digest) error {
	mediaType, _, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err != nil || !document.IsManifest(mediaType) {
		return fail(http.StatusBadRequest, "MANIFEST_INVALID",
			"the type %q is not that of an image manifest or an index", shortened(req.Header.Get("Content-Type")))
	}
	b, err := io.ReadAll(io.LimitReader(&patient{r: req.Body, rc: http.NewResponseController(w)}, maxManifest+1))
	if err != nil {
		return fail(http.StatusBadRequest, "MANIFEST_INVALID", "the manifest could not be read")
	}
	if len(b) > maxManifest {
		return fail(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "the manifest is larger than %d bytes",
			maxManifest)
	}
	f, err := readFacts(b, mediaType)
	if err != nil {
		return err
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	tag := version
	if want.Validate() == nil {
		if tag = ""; want != d.Digest {
			return fail(http.StatusBadRequest, "DIGEST_INVALID", "the manifest's digest is %s, not %s", d.Digest, want)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.complete(f); err != nil {
		return err
	}
	if err := r.layout.PutBlob(req.Context(), d, bytes.NewReader(b)); err != nil {
		return err
	}
	if err := r.enter(d, tag); err != nil {
		return err
	}
	if f.subject != "" {
		w.Header().Set("OCI-Subject", f.subject.String())
	}
	w.Header().Set("Location", "/v2/"+r.name+"/manifests/"+d.Digest.String())
	w.Header().Set("Docker-Content-Digest", d.Digest.String())
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// complete tells whether all is there that a manifest names. What is to be had
// elsewhere alone need not be.
func (r *repo) complete(f *facts) error {
	for _, d := range f.names {
		if len(d.URLs) > 0 {
			continue
		}
		size, err := r.layout.StatBlob(d.Digest)
		if errors.Is(err, fs.ErrNotExist) {
			return fail(http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN",
				"the manifest names %s, which is not in %s: push it first", d.Digest, r.name)
		}
		if err != nil {
			return err
		}
		if size != d.Size {
			return fail(http.StatusBadRequest, "MANIFEST_INVALID", "%s has %d bytes, the manifest says %d",
				d.Digest, size, d.Size)
		}
	}
	return nil
}

// enter puts a manifest into the index. One that loses its tag by that can be
// had by its digest still.
func (r *repo) enter(d ocispec.Descriptor, tag string) error {
	return r.layout.Update(func(idx *ocispec.Index) error {
		for i, m := range idx.Manifests {
			if tag != "" && nameOf(m) == tag {
				idx.Manifests[i].Annotations = nil
			}
		}
		if tag != "" {
			d.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
		}
		idx.Manifests = append(idx.Manifests, d)
		dropDoubles(idx)
		return nil
	})
}

// dropDoubles drops entries without a tag beside others of the same digest.
func dropDoubles(idx *ocispec.Index) {
	seen := map[digest.Digest]int{}
	for _, m := range idx.Manifests {
		seen[m.Digest]++
	}
	idx.Manifests = slices.DeleteFunc(idx.Manifests, func(m ocispec.Descriptor) bool {
		double := seen[m.Digest] > 1 && nameOf(m) == ""
		if double {
			seen[m.Digest]--
		}
		return double
	})
}

// deleteManifest forgets a tag, or a manifest with all its tags.
func (r *repo) deleteManifest(version string) error {
	d, err := r.find(version)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if version == d.Digest.String() {
		return r.layout.Update(func(idx *ocispec.Index) error {
			idx.Manifests = slices.DeleteFunc(idx.Manifests, func(m ocispec.Descriptor) bool {
				return m.Digest == d.Digest
			})
			return nil
		})
	}
	return r.layout.Update(func(idx *ocispec.Index) error {
		for i, m := range idx.Manifests {
			if nameOf(m) == version {
				idx.Manifests[i].Annotations = nil // it can be had by its digest still
			}
		}
		dropDoubles(idx)
		return nil
	})
}

func (s *Server) tags(w http.ResponseWriter, r *http.Request, name string) error {
	repo, err := s.repo(name, false)
	if err != nil {
		return err
	}
	idx, err := repo.layout.Index()
	if err != nil {
		return err
	}
	var tags []string
	for _, d := range idx.Manifests {
		if tag := nameOf(d); tag != "" {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	if tags, err = page(w, r, slices.Compact(tags)); err != nil {
		return err
	}
	return writeJSON(w, "application/json", map[string]any{"name": name, "tags": tags})
}

// referrers lists the manifests whose subject a digest is.
func (s *Server) referrers(w http.ResponseWriter, r *http.Request, name, text string) error {
	d, err := parseDigest(text)
	if err != nil {
		return err
	}
	out := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{}}
	repo, err := s.repo(name, false)
	var missing *failure
	if errors.As(err, &missing) && missing.status == http.StatusNotFound {
		return writeJSON(w, out.MediaType, out) // nothing refers to what is not there
	}
	if err != nil {
		return err
	}
	idx, err := repo.layout.Index()
	if err != nil {
		return err
	}
	query := r.URL.Query()
	filter := query.Get("artifactType")
	seen := map[digest.Digest]bool{}
	for _, m := range idx.Manifests {
		f, err := repo.factsOf(m)
		if err != nil || f.subject != d || seen[m.Digest] || filter != "" && f.artifactType != filter {
			continue
		}
		seen[m.Digest] = true
		out.Manifests = append(out.Manifests, ocispec.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size,
			ArtifactType: f.artifactType, Annotations: f.listed()})
	}
	if filter != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	var more bool
	if out.Manifests, more = pageOf(out.Manifests, query.Get("last")); more {
		query.Set("last", out.Manifests[len(out.Manifests)-1].Digest.String())
		w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.URL.Path, query.Encode()))
	}
	return writeJSON(w, out.MediaType, out)
}

// Bounds of a page of referrers, which clients read whole, in bytes but for their number.
const (
	maxReferrersPage = 1000
	maxListed        = 2 << 10 // of one manifest's annotations
)

// listed are a manifest's annotations for a list: who has put too much into them has the
// list without.
func (f *facts) listed() map[string]string {
	n := 0
	for k, v := range f.annotations {
		n += len(k) + len(v)
	}
	if n > maxListed {
		return nil
	}
	return f.annotations
}

// pageOf is the page after a digest, and tells whether there is another.
func pageOf(list []ocispec.Descriptor, last string) (page []ocispec.Descriptor, more bool) {
	slices.SortFunc(list, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	list = slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return d.Digest.String() <= last })
	return list[:min(len(list), maxReferrersPage)], len(list) > maxReferrersPage
}
