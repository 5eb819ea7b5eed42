package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/internal/pace"
)

// remote is a source of ADD that is fetched.
type remote struct {
	URL    string
	Digest digest.Digest `json:",omitempty"` // of --checksum; empty: whatever is there
}

// How long an answer may take to begin, and to go on, and how many bytes a second come at least on the whole. Variables
// for tests.
var (
	fetchTimeout = time.Minute
	fetchRate    = int64(4 << 10)
)

// isRemote tells what is fetched: nothing else has a scheme.
func isRemote(src string) bool {
	return strings.HasPrefix(src, "http://") || strings.HasPrefix(src, "https://")
}

// copyRemote takes a source to fetch. In a Jailfile it needs a checksum: equal
// input is to give an equal image.
func (p *planner) copyRemote(s *copyStep, in Instruction, src string) error {
	u, err := url.Parse(src)
	switch {
	case err == nil && u.User != nil:
		return fmt.Errorf("%s: the image's history would tell the login: fetch it by a RUN that has a secret",
			u.Redacted())
	case err != nil && strings.Contains(src, "@"):
		return errors.New("not a valid URL") // which may have a login in it
	case err != nil || u.Host == "":
		return fmt.Errorf("%s: not a valid URL", src)
	}
	r := remote{URL: src}
	for _, f := range in.Flags {
		if f.Name != "checksum" {
			continue
		}
		text, err := p.substitute(f.Value)
		if err != nil {
			return err
		}
		if r.Digest = digest.Digest(text); r.Digest.Validate() != nil || r.Digest.Algorithm() != digest.SHA256 {
			return fmt.Errorf("--checksum=%s: want sha256: and 64 hexadecimal digits", text)
		}
	}
	switch {
	case r.Digest == "" && !in.container:
		return fmt.Errorf("%s: nothing is fetched over the network without --checksum=sha256:...: write it, or put "+
			"the file into the context", src)
	case r.Digest == "":
		p.warn(in, "%s is fetched, and may be another file tomorrow: write --checksum=sha256:...", src)
	}
	s.remotes = append(s.remotes, r)
	return nil
}

// fetched is a file that was fetched.
type fetched struct {
	file string
	size int64
	sum  digest.Digest
}

// fetch brings a file into the build's directory, once.
func (b *builder) fetch(ctx context.Context, r remote) (f *fetched, err error) {
	if f := b.fetches[r.URL]; f != nil {
		return f, f.is(r)
	}
	if b.network == NetworkNone {
		return nil, fmt.Errorf("%s: the build has no network: remove --network none, or put the file into the context",
			r.URL)
	}
	out, err := os.CreateTemp(b.dir, "fetch-")
	if err != nil {
		return nil, err
	}
	f = &fetched{file: out.Name()}
	err = f.read(ctx, r, out)
	if err = errors.Join(err, out.Close()); err == nil {
		err = f.is(r)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", r.URL, err), os.Remove(f.file))
	}
	if b.fetches == nil {
		b.fetches = map[string]*fetched{}
	}
	b.fetches[r.URL] = f
	return f, nil
}

func (f *fetched) read(ctx context.Context, from remote, to io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from.URL, nil)
	if err != nil {
		return err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = fetchTimeout
	transport.DisableCompression = true // the file is what the server has
	defer transport.CloseIdleConnections()
	answer, err := (&http.Client{Transport: transport, CheckRedirect: from.mayFollow}).Do(request)
	if err != nil {
		return errors.Unwrap(err) // which names the URL again
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answers %s", answer.Status)
	}
	waits := pace.Rate{Pause: fetchTimeout, Bytes: fetchRate}.Waits(func() {
		cancel(fmt.Errorf("nothing came for %v, or less than %d bytes a second on the whole", fetchTimeout, fetchRate))
	})
	sum := sha256.New()
	body := io.LimitReader(waits.Reader(answer.Body), maxLayer+1)
	f.size, err = io.Copy(io.MultiWriter(to, sum), body)
	if err == nil && f.size > maxLayer {
		err = fmt.Errorf("it has more than %d bytes", int64(maxLayer))
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	f.sum = digest.Digest("sha256:" + hex.EncodeToString(sum.Sum(nil)))
	return err
}

// mayFollow refuses a redirect by which anybody on the way could choose the file.
func (r remote) mayFollow(request *http.Request, via []*http.Request) error {
	switch {
	case len(via) >= 10:
		return errors.New("more than 10 redirects")
	case r.Digest == "" && request.URL.Scheme != "https" && via[len(via)-1].URL.Scheme == "https":
		return fmt.Errorf("it is redirected to %s without TLS: give its --checksum=sha256:HEX", request.URL.Redacted())
	}
	return nil
}

func (f *fetched) is(r remote) error {
	if r.Digest != "" && f.sum != r.Digest {
		return fmt.Errorf("its digest is %s, --checksum says %s", f.sum, r.Digest)
	}
	return nil
}

// remoteKeys names what is fetched by its content.
func (s *copyStep) remoteKeys(ctx context.Context, b *work) (out []remote, err error) {
	for _, r := range s.remotes {
		if r.Digest == "" {
			f, err := b.fetch(ctx, r)
			if err != nil {
				return nil, err
			}
			r.Digest = f.sum
		}
		out = append(out, r)
	}
	return out, nil
}

// remote writes a file that is fetched, as docker does: its owner's alone.
func (c *copier) remote(r remote) error {
	f, err := c.b.fetch(c.ctx, r)
	if err != nil {
		return err
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		return err
	}
	name := path.Base(path.Clean("/" + u.Path))
	if name == "/" && strings.HasSuffix(c.step.dest, "/") {
		return fmt.Errorf("%s has no file name: write one in the destination", r.URL)
	}
	return c.own(name, 0o600, func() (*content, error) {
		in, err := os.Open(f.file)
		return &content{ReadCloser: in, size: f.size}, err
	})
}
