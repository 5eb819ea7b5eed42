package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
)

func parseDigest(s string) (digest.Digest, error) {
	d := digest.Digest(s)
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return "", fail(http.StatusBadRequest, "DIGEST_INVALID", "%q is not sha256: and 64 hexadecimal digits",
			shortened(s))
	}
	return d, nil
}

func (s *Server) blob(w http.ResponseWriter, r *http.Request, name, text string) error {
	d, err := parseDigest(text)
	if err != nil {
		return err
	}
	repo, err := s.repo(name, false)
	if err != nil {
		return err
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return repo.sendBlob(w, r, d)
	case http.MethodDelete:
		if err := repo.deleteBlob(d); err != nil {
			return err
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	return fail(http.StatusMethodNotAllowed, "UNSUPPORTED", "method not allowed: a blob supports GET, HEAD and DELETE")
}

func (r *repo) sendBlob(w http.ResponseWriter, req *http.Request, d digest.Digest) error {
	f, err := r.layout.OpenBlob(d)
	if errors.Is(err, fs.ErrNotExist) {
		return fail(http.StatusNotFound, "BLOB_UNKNOWN", "there is no blob %s in %s", d, r.name)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if req.Method == http.MethodHead { // who asks may go on to name it in a manifest
		if err := r.layout.TouchBlob(d); err != nil {
			return err
		}
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", d.String())
	h.Set("ETag", strconv.Quote(d.String()))
	http.ServeContent(w, req, "", time.Time{}, f)
	return nil
}

func (r *repo) deleteBlob(d digest.Digest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	used, err := r.used()
	if err != nil {
		return err
	}
	if used[d] {
		return fail(http.StatusMethodNotAllowed, "UNSUPPORTED", "a manifest of %s names the blob %s: delete that first",
			r.name, d)
	}
	err = r.layout.DeleteBlob(d)
	if errors.Is(err, fs.ErrNotExist) {
		return fail(http.StatusNotFound, "BLOB_UNKNOWN", "there is no blob %s in %s", d, r.name)
	}
	return err
}

// sweep removes uploads that nobody goes on with, and blobs that no manifest
// names, once they are old enough.
func (s *Server) sweep() error {
	names, err := s.names()
	errs := []error{err}
	for _, name := range names {
		repo, err := s.repo(name, true)
		if err == nil {
			err = errors.Join(s.sweepUploads(repo), repo.sweepBlobs(s.opts.Unused))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("repository %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Server) sweepUploads(repo *repo) error {
	files, err := repo.layout.Temps()
	for _, fi := range files {
		if time.Since(fi.ModTime()).Abs() < s.opts.Unused {
			continue
		}
		repo.upMu.Lock()
		u, open := repo.up[fi.Name()]
		repo.upMu.Unlock()
		if !open {
			err = errors.Join(err, repo.layout.Discard(fi.Name()))
		} else if u.mu.TryLock() {
			if !u.done {
				err = errors.Join(err, s.drop(repo, u, fi.Name()))
			}
			u.mu.Unlock()
		}
	}
	return err
}

func (r *repo) sweepBlobs(unused time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	used, err := r.used()
	if err != nil {
		return err
	}
	files, err := r.layout.Blobs()
	for _, fi := range files {
		d := digest.NewDigestFromEncoded(digest.SHA256, fi.Name())
		if d.Validate() == nil && !used[d] && time.Since(fi.ModTime()).Abs() > unused {
			err = errors.Join(err, r.layout.DeleteBlob(d))
		}
	}
	return err
}

// used are the manifests of the index and all that they name.
func (r *repo) used() (map[digest.Digest]bool, error) {
	idx, err := r.layout.Index()
	if err != nil {
		return nil, err
	}
	used := map[digest.Digest]bool{}
	var mark func(list []ocispec.Descriptor, depth int) error
	mark = func(list []ocispec.Descriptor, depth int) error {
		for _, d := range list {
			if used[d.Digest] {
				continue
			}
			used[d.Digest] = true
			if !document.IsManifest(d.MediaType) || depth == 0 {
				continue
			}
			f, err := r.factsOf(d)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := mark(f.names, depth-1); err != nil {
				return err
			}
		}
		return nil
	}
	return used, mark(idx.Manifests, maxIndexes)
}
