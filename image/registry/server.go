package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/durable"
)

// ServerOptions bound what a Server does. 0 is the default.
type ServerOptions struct {
	ReadOnly  bool
	Users     *Users        // who may come in; nil is everyone
	MaxBlob   int64         // bytes; default 16 GiB
	Uploads   int           // unfinished at a time; default 256
	Unused    time.Duration // after which an unfinished upload, or a blob that no manifest names, goes; default 24h
	LogAccess func(string)  // one line a request; may be nil
}

// Server is a registry on a directory, by the OCI distribution specification
// 1.1. Each repository is an OCI layout there, named as the repository is, with
// + for /. Other tools can read and write a layout while no Server runs.
type Server struct {
	dir   string
	lock  *os.File
	opts  ServerOptions
	mu    sync.Mutex
	repos map[string]*repo
	count int // of unfinished uploads
}

// repo is one repository.
type repo struct {
	name   string
	layout *layout.Layout
	mu     sync.RWMutex // held alone by who changes what manifests there are
	upMu   sync.Mutex
	up     map[string]*upload
	facts  sync.Map // of manifests, by digest, which never change
}

// NewServer opens a directory, which is made where it is missing, and takes its
// lock: a second server there is an error.
func NewServer(dir string, o ServerOptions) (*Server, error) {
	if o.MaxBlob == 0 {
		o.MaxBlob = 16 << 30
	}
	if o.Uploads == 0 {
		o.Uploads = 256
	}
	if o.Unused == 0 {
		o.Unused = 24 * time.Hour
	}
	if o.LogAccess == nil {
		o.LogAccess = func(string) {}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another registry serves %s: %w", dir, err), f.Close())
	}
	return &Server{dir: dir, lock: f, opts: o, repos: map[string]*repo{}}, nil
}

// Run sweeps the directory now and every hour, until ctx ends.
func (s *Server) Run(ctx context.Context) {
	for {
		if err := s.sweep(); err != nil {
			s.opts.LogAccess("sweep: " + err.Error())
		}
		select {
		case <-time.After(time.Hour):
		case <-ctx.Done():
			return
		}
	}
}

// Close lets go of the directory.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, r := range s.repos {
		r.closeUploads()
		errs = append(errs, r.layout.Close())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// failure is an answer in the words of the specification.
type failure struct {
	status     int
	code, text string
	header     http.Header
}

func (f *failure) Error() string { return f.text }

func fail(status int, code, format string, args ...any) error {
	return &failure{status: status, code: code, text: fmt.Sprintf(format, args...)}
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	seen := &statusWriter{ResponseWriter: w}
	err := s.route(seen, r)
	var f *failure
	if err != nil && !errors.As(err, &f) {
		f = &failure{status: http.StatusInternalServerError, code: "UNKNOWN",
			text: "internal server error: see the server's log"}
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			f.status, f.text = http.StatusInsufficientStorage, "no space left on the server"
		}
	}
	if f != nil {
		for k, v := range f.header {
			w.Header()[k] = v
		}
		w.Header().Set("Content-Type", "application/json")
		seen.WriteHeader(f.status)
		said := map[string]string{"code": f.code, "message": f.text}
		_ = json.NewEncoder(seen).Encode(map[string]any{"errors": []any{said}}) // the client may be gone
	}
	line := fmt.Sprintf("%s %s %q %d", r.RemoteAddr, r.Method, r.URL.Path, seen.status)
	if err != nil {
		line += " " + strconv.Quote(err.Error())
	}
	s.opts.LogAccess(line)
}

// statusWriter remembers the status for the log.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// route takes a path apart from its end, as a repository's name has slashes.
func (s *Server) route(w http.ResponseWriter, r *http.Request) error {
	if s.opts.Users != nil && !s.opts.Users.admit(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="freejail", charset="UTF-8"`)
		return fail(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	}
	reading := r.Method == http.MethodGet || r.Method == http.MethodHead
	if s.opts.ReadOnly && !reading {
		return fail(http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read-only")
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	switch {
	case r.URL.Path == "/v2" || ok && rest == "":
		return writeJSON(w, "application/json", struct{}{})
	case !ok:
		return fail(http.StatusNotFound, "NAME_INVALID", "only /v2/ is served here")
	case rest == "_catalog" && reading:
		return s.catalog(w, r)
	}
	parts := strings.Split(rest, "/")
	last := func(n int) string { return parts[max(0, len(parts)-n)] }
	name := func(n int) string { return strings.Join(parts[:max(0, len(parts)-n)], "/") }
	switch {
	case last(3) == "blobs" && last(2) == "uploads" && len(parts) > 3:
		return s.uploads(w, r, name(3), last(1))
	case last(2) == "blobs" && last(1) == "uploads":
		return s.uploads(w, r, name(2), "")
	case last(2) == "blobs":
		return s.blob(w, r, name(2), last(1))
	case last(2) == "manifests":
		return s.manifest(w, r, name(2), last(1))
	case last(2) == "tags" && last(1) == "list" && reading:
		return s.tags(w, r, name(2))
	case last(2) == "referrers" && reading:
		return s.referrers(w, r, name(2), last(1))
	}
	return fail(http.StatusNotFound, "NAME_INVALID", "there is nothing at this path")
}

func writeJSON(w http.ResponseWriter, mediaType string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(b) // the client may be gone
	return nil
}

// repo opens a repository; one that is missing is made if create says so.
func (s *Server) repo(name string, create bool) (*repo, error) {
	if len(name) > maxReference || !repositoryName.MatchString(name) {
		return nil, fail(http.StatusBadRequest, "NAME_INVALID", "%q is not a valid repository name", shortened(name))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.repos[name]; ok {
		return r, nil
	}
	dir := filepath.Join(s.dir, strings.ReplaceAll(name, "/", "+"))
	open := layout.Open
	if create {
		open = layout.Make
	} else if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fail(http.StatusNotFound, "NAME_UNKNOWN", "there is no repository %q", name)
	}
	l, err := open(dir)
	if err != nil {
		return nil, err
	}
	if create {
		if err := durable.Sync(s.dir); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	r := &repo{name: name, layout: l, up: map[string]*upload{}}
	s.repos[name] = r
	return r, nil
}

// names lists the repositories that there are.
func (s *Server) names() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	var out []string
	for _, e := range entries {
		if name := strings.ReplaceAll(e.Name(), "+", "/"); e.IsDir() && repositoryName.MatchString(name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, err
}

func (s *Server) catalog(w http.ResponseWriter, r *http.Request) error {
	list, err := s.names()
	if err != nil {
		return err
	}
	if list, err = page(w, r, list); err != nil {
		return err
	}
	return writeJSON(w, "application/json", map[string][]string{"repositories": list})
}

// page cuts a sorted list as ?n= and ?last= say, and links to what follows.
func page(w http.ResponseWriter, r *http.Request, list []string) ([]string, error) {
	q := r.URL.Query()
	if last := q.Get("last"); last != "" {
		i, found := slices.BinarySearch(list, last)
		if found {
			i++
		}
		list = list[i:]
	}
	n := 1000
	if text := q.Get("n"); text != "" {
		asked, err := strconv.Atoi(text)
		if err != nil || asked < 0 {
			return nil, fail(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "%q is not a valid number of results",
				shortened(text))
		}
		n = min(n, asked)
	}
	if len(list) <= n {
		return append([]string{}, list...), nil
	}
	list = list[:n]
	if n > 0 {
		q.Set("n", strconv.Itoa(n))
		q.Set("last", list[n-1])
		w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.URL.Path, q.Encode()))
	}
	return append([]string{}, list...), nil
}
