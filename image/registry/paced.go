package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/freejail/freejail/internal/pace"
)

// How fast a registry is at least, be it with a blob, a document, a token or an error. Variables for tests.
var (
	stall   = 60 * time.Second // without a byte, or behind the rate on the whole
	minRate = int64(4 << 10)   // bytes a second of one connection: less than any link by which images are had
)

// slowError is an answer that does not come, or a request that is not taken. It is a net.Error.
type slowError struct{}

func (slowError) Error() string {
	return fmt.Sprintf("the other side sent, or took, nothing for %s, or less than %d bytes a second on the whole",
		stall, minRate)
}

func (slowError) Timeout() bool   { return true }
func (slowError) Temporary() bool { return true }

// paced ends the requests whose other side is too slow: none is waited for for ever, whatever is asked for.
type paced struct{ next http.RoundTripper }

func (p *paced) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	late := func() { cancel(slowError{}) }
	rate := pace.Rate{Pause: stall, Bytes: minRate}
	own := req.WithContext(ctx)
	out := &sending{ReadCloser: req.Body, waits: rate.Waits(late), late: late}
	defer out.answered()
	if out.silence(); req.Body != nil && req.Body != http.NoBody {
		own.Body = out
	}
	resp, err := p.next.RoundTrip(own)
	if err != nil {
		err = slow(ctx, err)
		cancel(nil)
		return nil, err
	}
	resp.Request = req
	resp.Body = &receiving{resp.Body, rate.Waits(late).Reader(resp.Body), ctx, cancel}
	return resp, nil
}

// slow is why a request ended.
func slow(ctx context.Context, err error) error {
	var why slowError
	if errors.As(context.Cause(ctx), &why) {
		return why
	}
	return err
}

// receiving is the body of an answer.
type receiving struct {
	body   io.ReadCloser
	reader io.Reader
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (r *receiving) Read(p []byte) (int, error) {
	n, err := r.reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = slow(r.ctx, err)
	}
	return n, err
}

func (r *receiving) Close() error {
	err := r.body.Close()
	r.cancel(nil)
	return err
}

// sending is a request, and its body: from one read of that to the next the other side is waited for.
type sending struct {
	io.ReadCloser
	late func()

	mu    sync.Mutex // it is closed, and answered, while it is read
	waits *pace.Waits
	read  int         // bytes that are on their way
	quiet *time.Timer // while no body is read
	over  bool        // there is an answer
	shut  bool
}

// maxSent bounds the bytes that are on their way at once, which are waited for as a whole.
const maxSent = 32 << 10

// silence begins a time in which no body is read: for the connection, the header, what is buffered of a body, and until
// there is an answer. The times of the transport are shorter, but do not begin before all was sent.
func (s *sending) silence() {
	if !s.over {
		s.quiet = time.AfterFunc(3*stall, s.late)
	}
}

func (s *sending) endSilence() {
	if s.quiet != nil {
		s.quiet.Stop()
	}
}

func (s *sending) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	s.endSilence()
}

func (s *sending) Read(p []byte) (int, error) {
	s.mu.Lock()
	s.endSilence()
	s.waits.End(s.read)
	s.mu.Unlock()
	n, err := s.ReadCloser.Read(p[:min(len(p), maxSent)])
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read = n; !s.shut {
		s.waits.Begin()
	}
	return n, err
}

func (s *sending) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits.End(s.read)
	if !s.shut {
		s.shut = true
		s.endSilence()
		s.silence()
	}
	return s.ReadCloser.Close()
}
