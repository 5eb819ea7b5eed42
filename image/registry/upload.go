package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/freejail/freejail/image/document"
)

// chunkSize is for registries that do not take a blob as a whole. It is a variable
// for tests.
var chunkSize int64 = 16 << 20

// remoteTarget is a repository of a registry. What it is given comes from src, whose
// bytes are counted there; moved takes those back that are sent again.
type remoteTarget struct {
	*place
	src   content.Fetcher
	moved func(int64)
	root  digest.Digest // a manifest that is sent under its tag alone
}

func (t *remoteTarget) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	if !document.IsManifest(d.MediaType) {
		return t.upload(ctx, d, r, nil)
	}
	b, err := content.ReadAll(r, d)
	if err != nil || d.Digest == t.root {
		return err
	}
	return t.putManifest(ctx, d, b, d.Digest.String())
}

// Mount has a blob of another repository of the registry be in this one too, or
// sends it where the registry will not do that.
func (t *remoteTarget) Mount(ctx context.Context, d ocispec.Descriptor, from string,
	open func() (io.ReadCloser, error)) error {
	other := t.Reference
	other.Repository = from
	both := auth.AppendRepositoryScope(ctx, other, auth.ActionPull)
	query := "?mount=" + d.Digest.String() + "&from=" + url.QueryEscape(from)
	at, err := t.begin(both, query)
	if err == nil && at == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r, err := open()
	if err != nil {
		return err
	}
	return errors.Join(t.upload(ctx, d, r, at), r.Close())
}

func (t *remoteTarget) tag(ctx context.Context, d ocispec.Descriptor, name string) error {
	if !tagName.MatchString(name) && name != d.Digest.String() {
		return fmt.Errorf("the image's digest is %s, not %s", d.Digest, name)
	}
	b, err := readManifest(ctx, t.src, d)
	if err != nil {
		return err
	}
	err = t.putManifest(ctx, d, b, name)
	if err != nil && refusesTag(err) && t.has(ctx, d, name) {
		return nil
	}
	return err
}

// refusesTag tells whether a registry may refuse a tag because it has it, and lets none be changed: Amazon's with
// TAG_INVALID, others with statuses of their own.
func refusesTag(err error) bool {
	var answer *errcode.ErrorResponse
	return errors.As(err, &answer) && answer.StatusCode/100 == 4 && answer.StatusCode != http.StatusUnauthorized
}

// has tells whether a tag is of that very manifest.
func (t *remoteTarget) has(ctx context.Context, d ocispec.Descriptor, tag string) bool {
	got, _, err := t.manifest(ctx, tag, d.MediaType)
	return err == nil && got.Digest == d.Digest
}

func (t *remoteTarget) attach(ctx context.Context, d ocispec.Descriptor, tag string) error {
	if tag == "" {
		return nil
	}
	return t.tag(ctx, d, tag)
}

func (t *remoteTarget) finish(_ context.Context, err error) error { return err }

// session is where an upload goes on.
type session struct {
	url      *url.URL
	auth     string // for the registry's own host alone
	minChunk int64
	sent     int64 // in chunks
}

// upload sends a blob, after a failure from its beginning: how much a registry has of an upload that broke off is not
// known. One in chunks goes on where its token ended.
func (t *remoteTarget) upload(ctx context.Context, d ocispec.Descriptor, r io.Reader, at *session) error {
	var last uploadError
	came := int64(0) // of it in chunks: with each token that gets it further the tries begin anew
	for try := 1; ; try++ {
		body := &counting{Reader: r}
		err := t.send(ctx, d, body, at, last.whole)
		n, broken := body.read()
		if err == nil || broken != nil {
			return errors.Join(err, broken)
		}
		if t.moved != nil {
			t.moved(-n)
		}
		var failed *uploadError
		if !errors.As(err, &failed) || ctx.Err() != nil {
			return err
		}
		if failed.rest != nil && failed.rest.sent > came {
			try, came = 1, failed.rest.sent
		}
		if try >= attempts {
			return err
		}
		failed.whole = failed.whole || last.whole
		last = *failed
		if failed.ended && !t.do.renew(ctx, failed.auth) {
			return failed.error
		}
		if failed.denied {
			t.do.forget()
			ctx = context.WithValue(ctx, aloneKey{}, true) // uploads at once may use up the token of another
			ctx = auth.AppendScopesForHost(ctx, t.Reference.Host(), failed.scopes...)
		}
		if err := sleep(ctx, failed.wait(try)); err != nil {
			return err
		}
		again, err := t.src.Fetch(ctx, d)
		if err != nil {
			return err
		}
		defer again.Close()
		r, at = again, t.goOn(ctx, failed.rest)
	}
}

// goOn has an upload in chunks go on with another token. It is nil where that one has to begin anew.
func (t *remoteTarget) goOn(ctx context.Context, at *session) *session {
	if at == nil || at.auth == "" {
		return nil
	}
	ctx = auth.AppendRepositoryScope(ctx, t.Reference, auth.ActionPull, auth.ActionPush)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.url.String(), nil)
	if err != nil {
		return nil
	}
	resp, err := t.do.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	there := fmt.Sprintf("0-%d", at.sent-1)
	if resp.StatusCode != http.StatusNoContent || resp.Header.Get("Range") != there {
		return nil
	}
	next := *at
	next.auth = resp.Request.Header.Get("Authorization")
	if next.follow(resp) != nil {
		return nil
	}
	return &next
}

// uploadError is a failure after which another try is worth it.
type uploadError struct {
	error
	after  *time.Duration // as the registry says
	denied bool           // the token is no longer good, or not for this
	scopes []string       // which it should be for
	ended  bool           // the token of auth is no longer good, or this is not for its user
	auth   string
	whole  bool     // it may be taken in chunks
	rest   *session // of one in chunks, which may go on
}

func (e *uploadError) Unwrap() error { return e.error }

func (e *uploadError) wait(try int) time.Duration {
	if e.after != nil {
		return *e.after
	}
	return jitter(backoff << (try - 1))
}

// counting notes the error of a source, which is not the registry's. A registry that
// answers early is heard while the transport still reads.
type counting struct {
	io.Reader
	mu  sync.Mutex
	n   int64
	err error
}

func (c *counting) read() (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n, c.err
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// send is one upload.
func (t *remoteTarget) send(ctx context.Context, d ocispec.Descriptor, r io.Reader, at *session,
	chunks bool) (err error) {
	if at == nil {
		if at, err = t.begin(ctx, ""); err != nil || at == nil {
			return err
		}
	}
	size := d.Size
	if chunks {
		if err := t.chunks(ctx, at, r, d.Size); err != nil {
			return at.ended(err)
		}
		r, size = http.NoBody, 0
	}
	resp, err := t.transfer(ctx, http.MethodPut, at, "digest="+url.QueryEscape(d.Digest.String()), "", r, size)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusCreated:
		return nil
	case resp.StatusCode/100 == 2:
		if ok, err := t.Exists(ctx, d); ok || err != nil {
			return err
		}
		return fmt.Errorf("%w: the blob is not there", answer(resp))
	}
	return at.ended(refused(resp, !chunks && d.Size > 0))
}

// ended has an error tell of an upload that can go on with another token.
func (s *session) ended(err error) error {
	var failed *uploadError
	if s.sent > 0 && errors.As(err, &failed) && (failed.denied || failed.ended) {
		failed.rest = s
	}
	return err
}

// begin returns nil where the registry has the blob by now.
func (t *remoteTarget) begin(ctx context.Context, query string) (*session, error) {
	ctx = auth.AppendRepositoryScope(ctx, t.Reference, auth.ActionPull, auth.ActionPush)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url("blobs/uploads/"+query), nil)
	if err != nil {
		return nil, err
	}
	resp, err := t.do.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusCreated:
		return nil, nil
	case http.StatusAccepted:
		s := &session{auth: resp.Request.Header.Get("Authorization")}
		s.minChunk, err = strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64)
		if err != nil {
			s.minChunk = 0
		}
		return s, s.follow(resp)
	}
	return nil, answer(resp)
}

// follow takes the next URL of an upload. Another host than that of the last, be it by a redirect in between, does not
// get the credentials, and is not spoken to without TLS where the last was with it.
func (s *session) follow(resp *http.Response) error {
	next, err := resp.Location()
	if err != nil {
		return fmt.Errorf("%s %s: the registry does not say where the upload goes on: %w", resp.Request.Method,
			resp.Request.URL.Path, err)
	}
	from := resp.Request.URL
	if from.Scheme == "https" && next.Scheme != "https" {
		return fmt.Errorf("the registry wants the upload to go on without TLS, at %s://%s", next.Scheme, next.Host)
	}
	if !sameHost(next, from) || s.url != nil && !sameHost(next, s.url) {
		s.auth = ""
	}
	s.url = next
	return nil
}

func sameHost(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.TrimSuffix(a.Host, ":443") == strings.TrimSuffix(b.Host, ":443")
}

// transfer sends a part of a blob, or all.
func (t *remoteTarget) transfer(ctx context.Context, method string, at *session, query, part string, r io.Reader,
	size int64) (*http.Response, error) {
	where := *at.url
	if query != "" && where.RawQuery != "" {
		query = "&" + query
	}
	where.RawQuery += query
	if size == 0 {
		r = http.NoBody
	}
	req, err := http.NewRequestWithContext(ctx, method, where.String(), io.NopCloser(r))
	if err != nil {
		return nil, err
	}
	if size == 0 {
		req.Body = http.NoBody
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", "application/octet-stream")
	if part != "" {
		req.Header.Set("Content-Range", part)
	}
	if at.auth != "" {
		req.Header.Set("Authorization", at.auth)
	}
	resp, err := t.do.Do(req)
	if err != nil && worthwhile(nil, err) {
		err = &uploadError{error: err}
	}
	return resp, err
}

// chunks sends a blob in parts, after which it is to be completed; what was sent of it before is passed over.
func (t *remoteTarget) chunks(ctx context.Context, at *session, r io.Reader, size int64) error {
	if _, err := io.CopyN(io.Discard, r, at.sent); err != nil {
		return err
	}
	step := max(chunkSize, at.minChunk)
	for at.sent < size {
		n := min(step, size-at.sent)
		part := fmt.Sprintf("%d-%d", at.sent, at.sent+n-1)
		resp, err := t.transfer(ctx, http.MethodPatch, at, "", part, io.LimitReader(r, n), n)
		if err != nil {
			return err
		}
		if resp.StatusCode/100 != 2 {
			return errors.Join(refused(resp, false), resp.Body.Close())
		}
		if err := errors.Join(at.follow(resp), resp.Body.Close()); err != nil {
			return err
		}
		at.sent += n
	}
	return nil
}

// refused is the error of an answer to a part of a blob, or to one as a whole.
func refused(resp *http.Response, whole bool) error {
	ended := denies(resp)
	err := &uploadError{error: answer(resp), ended: ended, auth: resp.Request.Header.Get("Authorization")}
	if d, ok := retryAfter(resp); ok {
		err.after = &d
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		err.denied = true
		if c, ok := choose(parseChallenges(resp.Header.Values("Www-Authenticate"))); ok {
			err.scopes = strings.Fields(c.params["scope"])
		}
	case http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable: // it does not know of the upload, or not all
	case http.StatusMethodNotAllowed, http.StatusLengthRequired, http.StatusRequestEntityTooLarge,
		http.StatusUnsupportedMediaType, http.StatusNotImplemented:
		if err.whole = whole; !whole {
			return err.error
		}
	default:
		if !ended && !passing(resp.StatusCode) {
			return err.error
		}
	}
	return err
}
