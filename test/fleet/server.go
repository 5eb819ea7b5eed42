package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
)

// state is how a server is.
type state int

const (
	up       state = iota
	refusing       // its host is there, the program is not
	hanging        // nothing comes back
	busy           // 503
)

// Times of the model that are not measured.
const (
	roundTrip = time.Millisecond // within a site
	dialTime  = 15 * time.Second // of the client's transport, see image/registry
)

// server is a registry's or a mirror's model: what it has, how fast it is, and what was asked of it.
type server struct {
	name  string
	link  link
	image picture
	cost  time.Duration // of a request, on one of its processors
	cores int
	// most transfers at once; others are told 429 and to wait. 0 is no limit.
	most       int
	retryAfter time.Duration // with 429 and 503, where it is not 0
	turn       time.Duration // of all flows, which is how exact times are

	peer bool // a host's mirror: it knows no tags, and says 503

	mu      sync.Mutex
	lacks   bool // the image
	state   state
	changed chan struct{} // closed when the state changes
	work    link          // its processors, of requests
	open    int
	began   time.Time
	stats
}

type stats struct {
	peak, requests, refused int
	sent                    int64
	perSecond               perSecond
}

// picture is an image as a registry has it: 250 MB in layers, of which nothing is stored.
type picture struct {
	manifest []byte
	config   []byte
	sizes    map[string]int64 // of layers, by digest
}

const (
	repository = "team/web"
	// imageBytes are those of all layers.
	imageBytes = 250_000_000
)

func newPicture(version string, bytes int64) (p picture, err error) {
	c := ocispec.Image{Platform: image.HostPlatforms()[0], RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	p.sizes = map[string]int64{}
	for i, part := range []int64{50, 25, 15, 10} {
		d := digest.FromString(fmt.Sprint(version, i))
		size := bytes * part / 100
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, d)
		m.Layers = append(m.Layers, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: size})
		p.sizes[d.String()] = size
	}
	if p.config, err = json.Marshal(c); err != nil {
		return p, err
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(p.config),
		Size: int64(len(p.config))}
	p.manifest, err = json.Marshal(m)
	return p, err
}

func newServer(name string, rate float64, p picture, m measured) *server {
	s := &server{name: name, link: link{rate: rate}, image: p, cost: m.request, cores: m.cores, began: time.Now(),
		changed: make(chan struct{}), turn: 2 * time.Second, stats: stats{perSecond: perSecond{}}}
	s.work.rate = float64(m.cores) * float64(time.Second) // nanoseconds of work a second
	return s
}

func (s *server) set(to state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = to
	close(s.changed)
	s.changed = make(chan struct{})
}

// A host's mirror, see daemon/host and daemon/mirror.
const (
	peerTransfers = 1024
	peerBusy      = 2 * time.Second
)

// asPeer has the server be a host's mirror.
func (s *server) asPeer(lacks bool) {
	s.peer, s.most, s.retryAfter, s.lacks = true, peerTransfers, peerBusy, lacks
}

// fill has it have the image.
func (s *server) fill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lacks = false
}

func (s *server) has() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.lacks
}

// arrive counts a request.
func (s *server) arrive() (now state, changed chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	s.perSecond[int(time.Since(s.began)/time.Second)]++
	return s.state, s.changed
}

// asked are the most requests in a second from one time of the run to another.
func (s *server) asked(from, to time.Duration) (most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.perSecond.most(from, to)
}

// perSecond counts requests by the second of a run.
type perSecond map[int]int

// most are those in one second, of the seconds that begin from one time to another.
func (p perSecond) most(from, to time.Duration) (most int) {
	for second, n := range p {
		if at := time.Duration(second) * time.Second; at >= from && at < to {
			most = max(most, n)
		}
	}
	return most
}

type timeout struct{}

func (timeout) Error() string   { return "i/o timeout" }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

// serve answers one request of a host.
func (s *server) serve(h *link, req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	now, changed := s.arrive()
	if err := until(ctx, time.Now().Add(roundTrip), nil); err != nil {
		return nil, err
	}
	switch now {
	case refusing:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	case hanging:
		if err := until(ctx, time.Now().Add(dialTime), nil); err != nil {
			return nil, err
		}
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: timeout{}}
	case busy:
		return s.later(req, http.StatusServiceUnavailable), nil
	}
	if err := until(ctx, s.work.take(int(s.cost)), changed); err != nil {
		return nil, err
	}
	path := strings.TrimPrefix(req.URL.Path, "/v2/")
	i := strings.LastIndex(path, "/")
	kind, name := path[:i], path[i+1:]
	switch {
	case !s.has():
	case strings.HasSuffix(kind, "/manifests") &&
		(name == "1.0" && !s.peer || name == digest.FromBytes(s.image.manifest).String()):
		return answer(req, ocispec.MediaTypeImageManifest, s.image.manifest), nil
	case name == digest.FromBytes(s.image.config).String():
		return answer(req, "application/octet-stream", s.image.config), nil
	case strings.HasSuffix(kind, "/blobs") && s.image.sizes[name] != 0:
		return s.give(h, req, s.image.sizes[name]), nil
	case strings.HasSuffix(kind, "/referrers"):
		return answer(req, ocispec.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[]}`)), nil
	}
	return reply(req, http.StatusNotFound, http.NoBody, 0), nil
}

func reply(req *http.Request, code int, body io.ReadCloser, size int64) *http.Response {
	return &http.Response{Status: strconv.Itoa(code) + " " + http.StatusText(code), StatusCode: code, Proto: "HTTP/1.1",
		ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: body, ContentLength: size, Request: req}
}

func answer(req *http.Request, mediaType string, b []byte) *http.Response {
	out := reply(req, http.StatusOK, io.NopCloser(bytes.NewReader(b)), int64(len(b)))
	out.Header.Set("Content-Type", mediaType)
	return out
}

// later is an answer of one that has too much to do.
func (s *server) later(req *http.Request, code int) *http.Response {
	s.mu.Lock()
	s.refused++
	s.mu.Unlock()
	out := reply(req, code, http.NoBody, 0)
	if s.retryAfter != 0 {
		out.Header.Set("Retry-After", strconv.Itoa(int(s.retryAfter.Seconds())))
	}
	return out
}

// give begins a transfer, of what follows the range's beginning.
func (s *server) give(h *link, req *http.Request, size int64) *http.Response {
	s.mu.Lock()
	if s.most != 0 && s.open >= s.most {
		s.mu.Unlock()
		code := http.StatusTooManyRequests
		if s.peer {
			code = http.StatusServiceUnavailable
		}
		return s.later(req, code)
	}
	s.open++
	s.peak = max(s.peak, s.open)
	b := &body{s: s, host: h, ctx: req.Context(), left: size, changed: s.changed}
	s.mu.Unlock()
	code, at := http.StatusOK, int64(0)
	if n, err := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-", &at); n == 1 && err == nil {
		code = http.StatusPartialContent
	}
	b.left -= at
	out := reply(req, code, b, b.left)
	out.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, size-1, size))
	return out
}

// body is a transfer under way. Its bytes are those that the buffer has: they are counted, not made.
type body struct {
	s       *server
	host    *link
	ctx     context.Context
	left    int64
	changed chan struct{} // of the server's state
	once    sync.Once
}

func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	b.s.mu.Lock()
	flows := b.s.open
	b.s.mu.Unlock()
	n := int(min(int64(len(p)), b.left, int64(b.s.link.piece(flows, b.s.turn))))
	at := b.s.link.take(n)
	if own := b.host.take(n); own.After(at) {
		at = own
	}
	if err := until(b.ctx, at, b.changed); err != nil {
		return 0, err
	}
	b.s.mu.Lock()
	now, again := b.s.state, b.changed != b.s.changed
	if !again {
		b.s.sent += int64(n)
	}
	b.s.mu.Unlock()
	if !again {
		b.left -= int64(n)
		return n, nil
	}
	if now == hanging {
		<-b.ctx.Done()
		return 0, context.Cause(b.ctx)
	}
	return 0, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
}

func (b *body) Close() error {
	b.once.Do(func() {
		b.s.mu.Lock()
		defer b.s.mu.Unlock()
		b.s.open--
	})
	return nil
}
