package registry

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// upload is a blob of which a part may be there. Its file outlives the process.
type upload struct {
	mu   sync.Mutex // one request at a time
	f    *os.File
	hash hash.Hash
	n    int64
	done bool
	ours bool // counted among this process's
}

var uploadID = regexp.MustCompile(`^up-[A-Z2-7]{26}$`)

func (s *Server) uploads(w http.ResponseWriter, r *http.Request, name, id string) error {
	if id == "" {
		if r.Method != http.MethodPost {
			return fail(http.StatusMethodNotAllowed, "UNSUPPORTED", "an upload begins with a POST")
		}
		return s.begin(w, r, name)
	}
	repo, err := s.repo(name, false)
	if err != nil {
		return err
	}
	u, err := repo.upload(id)
	if err != nil {
		return err
	}
	if !u.mu.TryLock() {
		return fail(http.StatusConflict, "BLOB_UPLOAD_INVALID", "another request is writing this upload")
	}
	defer u.mu.Unlock()
	if u.done {
		return fail(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "this upload is over")
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return u.tell(w, name, id, http.StatusNoContent)
	case http.MethodPatch:
		if err := s.append(w, r, u, name, id); err != nil {
			return err
		}
		return u.tell(w, name, id, http.StatusAccepted)
	case http.MethodPut:
		return s.finish(w, r, repo, u, id)
	case http.MethodDelete:
		if err := s.drop(repo, u, id); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return fail(http.StatusMethodNotAllowed, "UNSUPPORTED",
		"method not allowed: an upload supports GET, PATCH, PUT and DELETE")
}

// begin starts an upload, or does without one: by a mount of another
// repository's blob, or with the whole content in the request.
func (s *Server) begin(w http.ResponseWriter, r *http.Request, name string) error {
	repo, err := s.repo(name, true)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	if text := q.Get("mount"); text != "" {
		d, err := parseDigest(text)
		if err != nil {
			return err
		}
		if s.mount(repo, q.Get("from"), d) {
			return created(w, name, d)
		}
	}
	s.mu.Lock()
	if s.count >= s.opts.Uploads {
		s.mu.Unlock()
		return fail(http.StatusTooManyRequests, "TOOMANYREQUESTS", "%d uploads are unfinished: finish or cancel some",
			s.opts.Uploads)
	}
	s.count++
	s.mu.Unlock()
	id := "up-" + rand.Text()
	f, err := repo.layout.Temp(id)
	if err != nil {
		s.free()
		return err
	}
	u := &upload{f: f, hash: sha256.New(), ours: true}
	u.mu.Lock()
	defer u.mu.Unlock()
	repo.upMu.Lock()
	repo.up[id] = u
	repo.upMu.Unlock()
	if q.Get("digest") != "" {
		err := s.finish(w, r, repo, u, id)
		if !u.done {
			err = errors.Join(err, s.drop(repo, u, id))
		}
		return err
	}
	return u.tell(w, name, id, http.StatusAccepted)
}

func (s *Server) free() {
	s.mu.Lock()
	s.count--
	s.mu.Unlock()
}

// mount takes a blob from another repository of this server.
func (s *Server) mount(to *repo, from string, d digest.Digest) bool {
	if _, err := to.layout.StatBlob(d); err == nil {
		return to.layout.TouchBlob(d) == nil
	}
	if from == "" {
		return false
	}
	other, err := s.repo(from, false)
	if err != nil {
		return false
	}
	return to.layout.LinkBlob(other.layout, d) == nil && to.layout.TouchBlob(d) == nil
}

// upload finds an upload, also one of an earlier process.
func (r *repo) upload(id string) (*upload, error) {
	unknown := fail(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload, or it has expired")
	if !uploadID.MatchString(id) {
		return nil, unknown
	}
	r.upMu.Lock()
	defer r.upMu.Unlock()
	if u, ok := r.up[id]; ok {
		return u, nil
	}
	f, err := r.layout.Reopen(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unknown
	}
	if err != nil {
		return nil, err
	}
	u := &upload{f: f, hash: sha256.New()}
	if u.n, err = io.Copy(u.hash, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r.up[id] = u
	return u, nil
}

func (r *repo) closeUploads() {
	r.upMu.Lock()
	defer r.upMu.Unlock()
	for _, u := range r.up {
		u.mu.Lock()
		_ = u.f.Close() // what was written stays for the next process
		u.done = true
		u.mu.Unlock()
	}
}

func uploadPath(name, id string) string { return "/v2/" + name + "/blobs/uploads/" + id }

func (u *upload) tell(w http.ResponseWriter, name, id string, status int) error {
	h := w.Header()
	h.Set("Location", uploadPath(name, id))
	h.Set("Docker-Upload-UUID", id)
	h.Set("Range", fmt.Sprintf("0-%d", max(0, u.n-1)))
	h.Set("Content-Length", "0")
	if status == http.StatusNoContent {
		h.Del("Content-Length")
	}
	w.WriteHeader(status)
	return nil
}

// append adds a request's body. Where the connection breaks, what came stays.
func (s *Server) append(w http.ResponseWriter, r *http.Request, u *upload, name, id string) error {
	if text := r.Header.Get("Content-Range"); text != "" {
		first, _, _ := strings.Cut(strings.TrimPrefix(text, "bytes "), "-")
		if n, err := strconv.ParseInt(first, 10, 64); err != nil || n != u.n {
			h := http.Header{"Location": {uploadPath(name, id)}, "Range": {fmt.Sprintf("0-%d", max(0, u.n-1))}}
			return &failure{http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID",
				fmt.Sprintf("%d bytes are there: go on with the next", u.n), h}
		}
	}
	if r.ContentLength > s.opts.MaxBlob-u.n {
		return s.tooLarge()
	}
	body := &patient{r: r.Body, rc: http.NewResponseController(w)}
	n, err := io.Copy(io.MultiWriter(u.f, u.hash), io.LimitReader(body, s.opts.MaxBlob-u.n+1))
	u.n += n
	switch {
	case err != nil && body.err != nil:
		return fail(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "the upload broke off after %d bytes", u.n)
	case err != nil:
		return errors.Join(err, u.rewind())
	case u.n > s.opts.MaxBlob:
		return errors.Join(s.tooLarge(), u.rewind())
	}
	return nil
}

func (s *Server) tooLarge() error {
	return fail(http.StatusRequestEntityTooLarge, "SIZE_INVALID",
		"the blob is larger than the %d bytes that this registry takes", s.opts.MaxBlob)
}

// rewind empties an upload whose file and hash may differ, or that is of no use.
func (u *upload) rewind() error {
	u.n = 0
	u.hash.Reset()
	_, err := u.f.Seek(0, io.SeekStart)
	return errors.Join(u.f.Truncate(0), err)
}

// patient waits for a slow client, but not for one that is gone.
type patient struct {
	r   io.Reader
	rc  *http.ResponseController
	err error
}

func (p *patient) Read(b []byte) (int, error) {
	_ = p.rc.SetReadDeadline(time.Now().Add(2 * time.Minute)) // not known to a test's recorder
	n, err := p.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		p.err = err
	}
	return n, err
}

func (s *Server) finish(w http.ResponseWriter, r *http.Request, repo *repo, u *upload, id string) error {
	d, err := parseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	if err := s.append(w, r, u, repo.name, id); err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, u.hash); got != d {
		return errors.Join(fail(http.StatusBadRequest, "DIGEST_INVALID", "the content's digest is %s, not %s",
			got, d), u.rewind())
	}
	s.forget(repo, u, id)
	if err := repo.layout.Keep(u.f, d, nil); err != nil {
		return err
	}
	if err := repo.layout.Sync(); err != nil { // what is answered for outlives a power cut
		return err
	}
	return created(w, repo.name, d)
}

func created(w http.ResponseWriter, name string, d digest.Digest) error {
	h := w.Header()
	h.Set("Location", "/v2/"+name+"/blobs/"+d.String())
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (s *Server) forget(repo *repo, u *upload, id string) {
	u.done = true
	repo.upMu.Lock()
	delete(repo.up, id)
	repo.upMu.Unlock()
	if u.ours {
		s.free()
	}
}

func (s *Server) drop(repo *repo, u *upload, id string) error {
	s.forget(repo, u, id)
	return errors.Join(u.f.Close(), repo.layout.Discard(id))
}
