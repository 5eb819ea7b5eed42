package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"

	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/layout"
)

const (
	connections = 4   // downloads or uploads of one image at once
	maxPages    = 100 // of a list of referrers
	maxManifest = document.MaxBytes
	maxIndexes  = 4    // within each other
	maxCopied   = 1000 // of what refers to one image
)

// How often, and how soon, a broken download goes on. Variables for tests.
var (
	attempts = 6
	backoff  = 500 * time.Millisecond // doubled each time
	headway  = int64(64 << 10)        // bytes after which what failed before is forgotten
)

// get is one request, for the bytes of a blob from an offset on until an end.
func (p *place) get(ctx context.Context, d ocispec.Descriptor, offset, end int64) (io.ReadCloser, int64, error) {
	kind, header := "blobs", http.Header{}
	if document.IsManifest(d.MediaType) {
		kind = "manifests"
		header.Set("Accept", d.MediaType)
	}
	part := offset > 0 || end < d.Size
	switch {
	case end < d.Size:
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, end-1))
	case offset > 0:
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := p.ask(ctx, http.MethodGet, kind+"/"+d.Digest.String(), header)
	if err != nil {
		return nil, 0, err
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		return resp.Body, 0, nil
	case resp.StatusCode == http.StatusPartialContent && part:
		if at, ok := rangeStart(resp.Header.Get("Content-Range")); ok && at == offset {
			return resp.Body, offset, nil
		}
		err = &rangeError{fmt.Errorf("blob %s: asked for what follows byte %d, got %q",
			d.Digest, offset, resp.Header.Get("Content-Range"))}
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && part:
		err = &rangeError{answer(resp)}
	case resp.StatusCode == http.StatusNotFound:
		err = fmt.Errorf("blob %s: %w", d.Digest, errdef.ErrNotFound)
	default:
		err = answer(resp)
	}
	return nil, 0, errors.Join(err, resp.Body.Close())
}

// rangeError is an answer that is not the range which was asked for.
type rangeError struct{ error }

func (e *rangeError) Unwrap() error { return e.error }

// rangeStart reads "bytes 100-199/200".
func rangeStart(s string) (int64, bool) {
	s, ok := strings.CutPrefix(s, "bytes ")
	first, _, dash := strings.Cut(s, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	return n, ok && dash && err == nil
}

// reader goes on where a broken download stopped.
type reader struct {
	ctx    context.Context
	open   func(ctx context.Context, at int64) (io.ReadCloser, int64, error)
	size   int64
	at     int64 // how much the caller has got
	body   io.ReadCloser
	broken error // why there is no body any more
	failed int   // since headway was made
	came   int64 // bytes since it failed last
}

// connect begins at r.at, or where the other side insists to begin.
func (r *reader) connect() (int64, error) {
	for {
		body, at, err := r.open(r.ctx, r.at)
		if err == nil {
			r.body = body
			return at, nil
		}
		if err := r.again(err); err != nil {
			return 0, err
		}
	}
}

// again waits before another attempt, or says that there is none.
func (r *reader) again(err error) error {
	if r.ctx.Err() != nil {
		return errors.Join(r.ctx.Err(), err)
	}
	r.came = 0
	if r.failed++; final(err) || r.failed >= attempts {
		return err
	}
	if ended := sleep(r.ctx, jitter(backoff<<(r.failed-1))); ended != nil {
		return errors.Join(ended, err)
	}
	return nil
}

func (r *reader) Read(p []byte) (int, error) {
	for {
		if err := r.mended(); err != nil {
			return 0, fmt.Errorf("broken off after %d of %d bytes: %w", r.at, r.size, err)
		}
		n, err := r.body.Read(p)
		r.at += int64(n)
		if r.came += int64(n); r.came >= headway {
			r.failed = 0
		}
		if err == nil || errors.Is(err, io.EOF) && r.at >= r.size {
			return n, err
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		r.drop(err)
		if n > 0 {
			return n, nil
		}
	}
}

// mended connects again where a connection broke, and passes over what the caller has got already, where the other
// side cannot.
func (r *reader) mended() error {
	for r.body == nil {
		if err := r.again(r.broken); err != nil {
			return err
		}
		at, err := r.connect()
		if err != nil {
			return err
		}
		if at < r.at {
			if _, err := io.CopyN(io.Discard, r.body, r.at-at); err != nil {
				r.drop(err)
			}
		}
	}
	return nil
}

func (r *reader) drop(why error) {
	if r.body != nil {
		_ = r.body.Close() // it is broken already
		r.body, r.broken = nil, why
	}
}

func (r *reader) Close() error {
	r.drop(fs.ErrClosed)
	r.failed = attempts // nothing is asked for any more
	return nil
}

// origin gives an image's blobs from the first place that has them.
type origin struct {
	own   *place                   // the registry's, whatever its mirrors
	known map[string][]byte        // manifests that were read already, by digest
	from  map[digest.Digest]*place // of those

	mu      sync.Mutex
	places  []*place                 // those that did not answer last
	gave    map[digest.Digest]*place // the first of those that a blob came from
	refused []*place
	passed  map[*place]string // mirrors that did not answer, and why; tell knows
	sent    map[*place]int64
	tell    func(string) // why a mirror is passed over; may be nil
}

func newOrigin(places []*place) *origin {
	return &origin{places: slices.Clone(places), own: places[len(places)-1], known: map[string][]byte{},
		from: map[digest.Digest]*place{}, gave: map[digest.Digest]*place{}, passed: map[*place]string{},
		sent: map[*place]int64{}}
}

// Source is the registry of an image or a mirror of it.
type Source struct {
	Host       string
	Mirror     bool
	Bytes      int64  // of blobs that it has sent
	PassedOver string // why a mirror was asked after the others; else empty
}

// sources are those places that have sent something or were passed over.
func (o *origin) sources(places []*place) (out []Source) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range places {
		s := Source{p.ref.Host, p != o.own, o.sent[p], o.passed[p]}
		if slices.Contains(o.refused, p) {
			s.PassedOver = errOther.Error()
		}
		if s.Bytes > 0 || s.PassedOver != "" {
			out = append(out, s)
		}
	}
	return out
}

// sentBy tells how much each of some places has sent: "1MiB from mirror.example".
func sentBy(list []Source) string {
	var out []string
	for _, s := range list {
		if s.Bytes > 0 {
			out = append(out, fmt.Sprintf("%s from %s", units.BytesSize(float64(s.Bytes)), s.Host))
		}
	}
	return strings.Join(out, ", ")
}

var errOther = errors.New("it has given what was not asked for")

// Source is the registry, whichever of its places a blob comes from.
func (o *origin) Source() string { return o.own.ref.Host }

// Refuse passes over the place that gave something else for a blob from now on.
func (o *origin) Refuse(d digest.Digest) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if p := o.gave[d]; p != nil && !slices.Contains(o.refused, p) {
		o.refused = append(o.refused, p)
	}
	return len(o.refused) < len(o.places)
}

func (o *origin) isRefused(p *place) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Contains(o.refused, p)
}

// all are the places in their order.
func (o *origin) all() []*place {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.places)
}

// last has a place asked after the others, for this image, and tells so of a mirror, once.
func (o *origin) last(p *place, why error) {
	o.mu.Lock()
	o.places = append(slices.DeleteFunc(o.places, func(other *place) bool { return other == p }), p)
	_, told := o.passed[p]
	if told = told || p == o.own; !told {
		o.passed[p] = bounded(explain(why))
	}
	o.mu.Unlock()
	if !told && o.tell != nil {
		o.tell(fmt.Sprintf("mirror %s is passed over: %s", p.ref.Host, explain(why)))
	}
}

// to is the context of a request to a place: a mirror that does not answer is not asked again before the others.
func (o *origin) to(ctx context.Context, p *place) context.Context {
	if p == o.own {
		return ctx
	}
	return context.WithValue(ctx, hastyKey{}, true)
}

// Open reads a blob or a manifest, and goes on by itself after a connection broke, at another place where that one
// does not answer. Its content is not verified.
func (o *origin) Open(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	if b, ok := o.known[d.Digest.String()]; ok && offset == 0 {
		return io.NopCloser(strings.NewReader(string(b))), 0, nil
	}
	o.mu.Lock()
	delete(o.gave, d.Digest)
	o.mu.Unlock()
	r := &reader{ctx: ctx, size: d.Size, at: offset,
		open: func(ctx context.Context, at int64) (io.ReadCloser, int64, error) { return o.get(ctx, d, at, d.Size) }}
	at, err := r.connect()
	if err != nil {
		return nil, 0, err
	}
	if at != offset { // the caller knows better what to do with the beginning
		r.at = at
	}
	return r, r.at, nil
}

// OpenRange reads n bytes of a blob from an offset on, as Open does, or all of it from its beginning. The error is
// layout.ErrNoRanges where nobody will give it so.
func (o *origin) OpenRange(ctx context.Context, d ocispec.Descriptor, offset, n int64) (io.ReadCloser, int64, error) {
	r := &reader{ctx: ctx, size: offset + n, at: offset}
	r.open = func(ctx context.Context, at int64) (io.ReadCloser, int64, error) {
		body, at, err := o.get(ctx, d, at, r.size)
		if refusesRanges(err) {
			err = fmt.Errorf("%w: %w", layout.ErrNoRanges, err)
		}
		return body, at, err
	}
	at, err := r.connect()
	if err != nil {
		return nil, 0, err
	}
	if at != offset {
		r.at, r.size = at, d.Size
	}
	return r, r.at, nil
}

// refusesRanges tells of the errors of get whether it would be the same another time.
func refusesRanges(err error) bool {
	var each nowhere
	return errors.As(err, &each) && !slices.ContainsFunc(each, func(err error) bool {
		var other *rangeError
		return !errors.As(err, &other) && !final(err)
	})
}

// get asks one place after the other, once, for the bytes from an offset until an end.
func (o *origin) get(ctx context.Context, d ocispec.Descriptor, offset, end int64) (io.ReadCloser, int64, error) {
	var errs nowhere
	for _, p := range o.all() {
		if o.isRefused(p) {
			errs = append(errs, fmt.Errorf("%s: %w", p.ref.Host, errOther))
			continue
		}
		r, at, err := p.get(o.to(ctx, p), d, offset, end)
		if err == nil {
			if at != offset {
				end = d.Size
			}
			o.mu.Lock()
			if o.gave[d.Digest] == nil {
				o.gave[d.Digest] = p
			}
			o.mu.Unlock()
			return &given{r, o, p, end - at, 0}, at, nil
		}
		if errs = append(errs, fmt.Errorf("%s: %w", p.ref.Host, err)); ctx.Err() != nil {
			break
		}
		if !errors.Is(err, errdef.ErrNotFound) && ctx.Err() == nil {
			o.last(p, err)
		}
	}
	return nil, 0, errs
}

// given is a blob as a place gives it.
type given struct {
	io.ReadCloser
	from *origin
	by   *place
	size int64 // of what it is to give
	came int64
}

func (g *given) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	g.came += int64(n)
	if err != nil && g.came < g.size && (g.came < headway || isTimeout(err)) { // else it may be asked for the rest
		g.from.last(g.by, err)
	}
	if n > 0 {
		g.from.count(g.by, n)
	}
	return n, err
}

func (o *origin) count(p *place, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sent[p] += int64(n)
}

// isTimeout tells whether a place has been waited for long enough.
func isTimeout(err error) bool {
	var network net.Error
	return errors.As(err, &network) && network.Timeout()
}

// nowhere is why no place gives a blob: an error of each that was asked.
type nowhere []error

func (e nowhere) Error() string { return errors.Join(e...).Error() }

func (e nowhere) Unwrap() []error { return e }

// Is tells whether nobody has it, or not any more.
func (e nowhere) Is(err error) bool {
	return err == layout.ErrNoBlob &&
		!slices.ContainsFunc(e, func(err error) bool { return !errors.Is(err, errdef.ErrNotFound) })
}

// manifest reads a manifest from the first place that has it. One that has it not is asked for its blobs all the
// same, in its turn: a mirror may know no tags, or have the layers of another version. One that fails is asked last.
func (o *origin) manifest(ctx context.Context, version, hint string) (ocispec.Descriptor, []byte, error) {
	var errs []error
	unknown := false // to the registry itself
	all := o.all()
	for _, p := range all {
		d, b, err := p.manifest(o.to(ctx, p), version, hint)
		if err == nil {
			o.known[d.Digest.String()], o.from[d.Digest] = b, p
			return d, b, nil
		}
		missing := errors.Is(err, errdef.ErrNotFound)
		if !missing && ctx.Err() == nil {
			o.last(p, err)
		}
		unknown = unknown || missing && p == o.own
		if len(all) > 1 {
			err = fmt.Errorf("%s: %w", p.ref.Host, err)
		}
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	if !unknown { // that a mirror has it not does not say that there is no such image
		errs = slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, errdef.ErrNotFound) })
	}
	return ocispec.Descriptor{}, nil, errors.Join(errs...)
}

var (
	_ layout.Origin   = (*origin)(nil)
	_ layout.Fallback = (*origin)(nil)
	_ layout.Sourced  = (*origin)(nil)
	_ layout.Ranged   = (*origin)(nil)
)
