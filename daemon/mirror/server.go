package mirror

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/freejail/freejail/internal/crowd"
)

// What the server takes on.
const (
	spare      = 256 // connections beyond those of transfers
	headerTime = 10 * time.Second
	idleTime   = 2 * time.Minute
	maxHeader  = 16 << 10
	maxName    = 255
	busyFor    = 2                // seconds, of Retry-After
	piece      = 64 << 10         // of a transfer
	maxScrapes = 4                // at once
	minPerHost = 8                // transfers of one address, however few there may be of all
	pieceTime  = 16 * time.Second // for a piece: 4 KiB a second, as clients bound it
)

// options are what the server is told, once.
type options struct {
	Username  string   `json:"username"`
	Password  string   `json:"password"`
	Chain     [][]byte `json:"chain"` // certificates in DER; none is plain HTTP
	Key       []byte   `json:"key"`   // PKCS #8
	Transfers int      `json:"transfers"`
	Rate      int64    `json:"rate"`
}

// server answers other hosts.
type server struct {
	options
	open  func(question) (*os.File, reply, error)
	tell  func(format string, args ...any)
	crowd *crowd.Crowd
	meter meter
	limit time.Duration // for a piece

	mu      sync.Mutex
	running int
	of      map[string]int // transfers of an address

	sent     prometheus.Counter
	requests *prometheus.CounterVec
	scrapes  http.Handler
}

func newServer(o options, open func(question) (*os.File, reply, error), tell func(string, ...any)) *server {
	s := &server{options: o, open: open, tell: tell, crowd: crowd.New(o.Transfers + spare), of: map[string]int{},
		meter: meter{rate: o.Rate}, limit: pieceTime,
		sent: prometheus.NewCounter(prometheus.CounterOpts{Name: "freejail_mirror_sent_bytes_total",
			Help: "Bytes of images that were given to other hosts."}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "freejail_mirror_requests_total",
			Help: "Requests of other hosts, by the status of the answer."}, []string{"status"})}
	all := prometheus.NewRegistry()
	all.MustRegister(s.sent, s.requests, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "freejail_mirror_transfers", Help: "Transfers to other hosts that are under way."}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(s.running)
	}))
	s.scrapes = promhttp.HandlerFor(all, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes})
	return s
}

// http is the server of a listener. HTTP/2 would have many requests on one connection, which are not bounded here.
func (s *server) http() *http.Server {
	out := &http.Server{Handler: s.crowd.Answer(s), ReadHeaderTimeout: headerTime, IdleTimeout: idleTime,
		MaxHeaderBytes: maxHeader, ConnState: s.crowd.Changed, ConnContext: crowd.WithConn,
		ErrorLog: log.New(io.Discard, "", 0), Protocols: new(http.Protocols)}
	out.Protocols.SetHTTP1(true)
	return out
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	seen := &answer{ResponseWriter: w, rc: http.NewResponseController(w), s: s}
	seen.deadline()
	s.route(seen, r)
	s.requests.WithLabelValues(strconv.Itoa(seen.status)).Inc()
}

// refuse answers in the words of the distribution specification.
func refuse(w http.ResponseWriter, status int, code, format string, args ...any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	said := map[string]string{"code": code, "message": fmt.Sprintf(format, args...)}
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{said}}) // the client may be gone
}

func (s *server) route(w *answer, r *http.Request) {
	switch {
	case r.ContentLength != 0: // which would be read to its end
		w.Header().Set("Connection", "close")
		refuse(w, http.StatusBadRequest, "UNSUPPORTED", "a mirror takes nothing")
	case !s.admits(r):
		w.Header().Set("WWW-Authenticate", `Basic realm="freejail mirror", charset="UTF-8"`)
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "a mirror is read-only")
	case r.URL.Path == "/metrics":
		s.scrapes.ServeHTTP(w, r)
	case r.URL.Path == "/v2" || r.URL.Path == "/v2/":
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}\n") // the client may be gone
	default:
		s.blob(w, r)
	}
}

// admits compares in a time that tells nothing of the password.
func (s *server) admits(r *http.Request) bool {
	if s.Username == "" {
		return true
	}
	name, password, ok := r.BasicAuth()
	got, want := sha256.Sum256([]byte(name+"\x00"+password)), sha256.Sum256([]byte(s.Username+"\x00"+s.Password))
	return ok && subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// asked takes a path apart from its end, as a repository's name has slashes.
func asked(path string) (q question, ok bool) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) < 3 {
		return q, false
	}
	n := len(parts)
	q = question{Repository: strings.Join(parts[:n-2], "/"), Digest: digest.Digest(parts[n-1]),
		Manifest: parts[n-2] == "manifests"}
	return q, len(q.Repository) <= maxName && (q.Manifest || parts[n-2] == "blobs") &&
		q.Digest.Validate() == nil && q.Digest.Algorithm() == digest.SHA256
}

func (s *server) blob(w *answer, r *http.Request) {
	q, ok := asked(r.URL.Path)
	missing := "BLOB_UNKNOWN"
	if q.Manifest {
		missing = "MANIFEST_UNKNOWN"
	}
	if !ok { // tags are the registry's to say
		refuse(w, http.StatusNotFound, missing, "a mirror of a host has manifests and blobs by their digests alone")
		return
	}
	if r.Method == http.MethodGet {
		end := s.begin(r.RemoteAddr)
		if end == nil {
			w.Header().Set("Retry-After", strconv.Itoa(busyFor))
			refuse(w, http.StatusServiceUnavailable, "TOOMANYREQUESTS", "as many transfers are under way as may be")
			return
		}
		defer end()
	}
	f, said, err := s.open(q)
	switch {
	case err != nil || said.Error != "":
		s.tell("%s: %v %s", q.Digest, err, said.Error)
		refuse(w, http.StatusInternalServerError, "UNKNOWN", "the host's store cannot be read: see its log")
		return
	case f == nil:
		refuse(w, http.StatusNotFound, missing, "this host has no %s of %q", q.Digest, q.Repository)
		return
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	if q.Manifest {
		h.Set("Content-Type", said.Type)
	}
	h.Set("Docker-Content-Digest", q.Digest.String())
	h.Set("ETag", strconv.Quote(q.Digest.String()))
	if strings.Contains(r.Header.Get("Range"), ",") { // many small ranges are work for nothing
		r.Header.Del("Range")
	}
	w.counts = true
	http.ServeContent(w, r, "", time.Time{}, f)
}

// begin takes a turn; nil is that there is none. One address has no more than a quarter of all.
func (s *server) begin(remote string) (end func()) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running >= s.Transfers || s.of[host] >= max(s.Transfers/4, min(minPerHost, s.Transfers)) {
		return nil
	}
	s.running++
	s.of[host]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running--
		if s.of[host]--; s.of[host] == 0 {
			delete(s.of, host)
		}
	}
}

// answer gives content piece by piece: who takes one too slowly is left.
type answer struct {
	http.ResponseWriter
	rc     *http.ResponseController
	s      *server
	status int
	counts bool // it is of an image
}

func (a *answer) deadline() { _ = a.rc.SetWriteDeadline(time.Now().Add(a.s.limit)) } // else it is as before

func (a *answer) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(b)
}

// ReadFrom lets the kernel send from a file.
func (a *answer) ReadFrom(r io.Reader) (n int64, err error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	limited, ok := r.(*io.LimitedReader) // as ServeContent gives it
	if !ok {
		limited = &io.LimitedReader{R: r, N: 1<<63 - 1}
	}
	for limited.N > 0 && err == nil {
		a.s.meter.wait(min(piece, limited.N))
		a.deadline()
		var sent int64
		sent, err = io.CopyN(a.ResponseWriter, limited.R, min(piece, limited.N))
		limited.N -= sent
		if n += sent; a.counts {
			a.s.sent.Add(float64(sent))
		}
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// meter bounds what all transfers take together.
type meter struct {
	rate int64 // bytes a second; 0 is no limit
	mu   sync.Mutex
	next time.Time
}

func (m *meter) wait(n int64) {
	if m.rate <= 0 {
		return
	}
	m.mu.Lock()
	now := time.Now()
	if m.next.Before(now) {
		m.next = now
	}
	at := m.next
	m.next = at.Add(time.Duration(float64(n) / float64(m.rate) * float64(time.Second)))
	m.mu.Unlock()
	time.Sleep(time.Until(at))
}
