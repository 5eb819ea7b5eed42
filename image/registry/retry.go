package registry

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/retry"
)

const (
	maxBackoff    = 3 * time.Second // between the attempts of one request
	maxRetryAfter = time.Minute     // whatever a registry says
)

// patience is how often a request is repeated, and how soon: see retry.Policy.
type patience struct{}

func (patience) Retry(attempt int, resp *http.Response, err error) (time.Duration, error) {
	if attempt+1 >= attempts || !worthwhile(resp, err) {
		return -1, nil
	}
	if wait, ok := retryAfter(resp); ok { // others were told the same
		return wait + rand.N(wait/2+1), nil
	}
	return jitter(min(backoff/2<<attempt, maxBackoff)), nil
}

// repeating repeats requests.
type repeating struct{ patient, hasty http.RoundTripper }

func newRepeating(base http.RoundTripper) *repeating {
	return &repeating{&retry.Transport{Base: base, Policy: func() retry.Policy { return patience{} }},
		&retry.Transport{Base: base, Policy: func() retry.Policy { return haste{} }}}
}

func (r *repeating) RoundTrip(req *http.Request) (*http.Response, error) {
	if isHasty(req.Context()) {
		return r.hasty.RoundTrip(req)
	}
	return r.patient.RoundTrip(req)
}

// hastyKey marks the context of a request that has another place to go, if this one does not answer.
type hastyKey struct{}

func isHasty(ctx context.Context) bool { return ctx.Value(hastyKey{}) != nil }

// haste is patient with those that say that they are busy.
type haste struct{}

func (haste) Retry(attempt int, resp *http.Response, err error) (time.Duration, error) {
	if err != nil {
		return -1, nil
	}
	return patience{}.Retry(attempt, resp, nil)
}

func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// worthwhile tells whether the same request may succeed a little later.
func worthwhile(resp *http.Response, err error) bool {
	if err != nil {
		return isTimeout(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
			errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	}
	return passing(resp.StatusCode)
}

// passing knows the answers that tell of load or trouble, not of the request.
func passing(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return status >= 500
}

// retryAfter is for how long a registry asks to wait, in seconds or by a date.
func retryAfter(resp *http.Response) (time.Duration, bool) {
	if resp == nil {
		return 0, false
	}
	text := strings.TrimSpace(resp.Header.Get("Retry-After"))
	if n, err := strconv.ParseUint(text, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter), true
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0, false
	}
	return min(max(time.Until(at), 0), maxRetryAfter), true
}

// sleep waits, or returns why the context ended.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
