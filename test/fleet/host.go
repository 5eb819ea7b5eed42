package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/image/sign"
)

// node is a host of the fleet as registries see it: the client of registries is the daemon's, the rest stands in for
// it.
type node struct {
	client *registry.Client
	link   link
	store  *store
}

// wire brings a client's requests to the servers.
type wire struct {
	link    *link
	servers map[string]*server
}

func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	s := w.servers[req.URL.Host]
	if s == nil {
		return nil, &net.DNSError{Err: "no such host", Name: req.URL.Host, IsNotFound: true}
	}
	return s.serve(w.link, req)
}

func newNode(rate float64, servers map[string]*server, mirrors ...string) (*node, error) {
	h := &node{link: link{rate: rate}, store: newStore()}
	var err error
	h.client, err = registry.NewClient(registry.Config{UserAgent: "freejail",
		Hosts: []registry.Host{{Name: origin, Mirrors: mirrors}},
		Apart: &registry.Apart{Wire: &wire{&h.link, servers}}})
	return h, err
}

// origin is the registry that references name.
const origin = "registry.example"

// store stands in for layout.Store: it asks for the same in the same order, four layers at once, goes on where a
// download broke, and forgets what came after an hour. It hashes and writes nothing.
type store struct {
	mu    sync.Mutex
	parts map[digest.Digest]part
}

func newStore() *store { return &store{parts: map[digest.Digest]part{}} }

type part struct {
	n     int64
	at    time.Time
	whole bool
}

const (
	parallel    = 4
	keepPartial = time.Hour
)

func (s *store) AddSignatures(digest.Digest, sign.Record) error   { return nil }
func (s *store) AddApprovals(digest.Digest, sign.Documents) error { return nil }

func (s *store) Fetch(ctx context.Context, from layout.Origin, d ocispec.Descriptor, name string,
	o layout.FetchOptions) (*image.Image, error) {
	img, m, err := image.Read(func(d ocispec.Descriptor) ([]byte, error) { return layout.ReadBlob(ctx, from, d) }, d)
	if err != nil {
		return nil, err
	}
	if o.Arriving != nil {
		o.Arriving(img, nil)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, l := range m.Layers {
		g.Go(func() error { return s.layer(ctx, from, l) })
	}
	return img, g.Wait()
}

func (s *store) part(d digest.Digest) part {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.parts[d]
	if !p.whole && time.Since(p.at) > keepPartial {
		return part{}
	}
	return p
}

func (s *store) keep(d digest.Digest, p part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.at = time.Now()
	s.parts[d] = p
}

// space is where everything goes that hosts read, one after the other.
var space [8 << 20]byte

func (s *store) layer(ctx context.Context, from layout.Origin, d ocispec.Descriptor) (err error) {
	p := s.part(d.Digest)
	if p.whole {
		return nil
	}
	r, at, err := from.Open(ctx, d, p.n)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if p.n != at {
		p.n = 0
	}
	for {
		n, err := r.Read(space[:])
		if p.n += int64(n); n > 0 {
			s.keep(d.Digest, p)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if p.n != d.Size {
		return fmt.Errorf("layer %s: %d of %d bytes", d.Digest, p.n, d.Size)
	}
	p.whole = true
	s.keep(d.Digest, p)
	return nil
}

// Nomad's own of a service, where a job says nothing: restart and reschedule.
const (
	restarts        = 2
	restartDelay    = 15 * time.Second
	restartJitter   = 0.25
	rescheduleFirst = 30 * time.Second
	rescheduleMost  = time.Hour
)

// pullTimeout is image_pull_timeout where a job says nothing.
const pullTimeout = 5 * time.Minute

// task is what Nomad tries to start on a host.
type task struct {
	host    *node
	timeout time.Duration
	tries   int
	first   atomic.Bool // the first three tries failed: a job of the system would have ended
}

// pull is one start of the task, as far as its image.
func (t *task) pull(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	ref, err := registry.ParseReference(origin + "/" + repository + ":1.0")
	if err != nil {
		return err
	}
	_, err = t.host.client.Pull(ctx, t.host.store, ref, registry.PullOptions{FetchOptions: layout.FetchOptions{
		Pulled: true}})
	return err
}

// start tries until the image is there, as Nomad's client and servers do.
func (t *task) start(ctx context.Context) error {
	next := rescheduleFirst
	for {
		for range 1 + restarts {
			t.tries++
			err := t.pull(ctx)
			if err == nil || ctx.Err() != nil {
				return err
			}
			wait := restartDelay + time.Duration(rand.Float64()*restartJitter*float64(restartDelay))
			if err := until(ctx, time.Now().Add(wait), nil); err != nil {
				return err
			}
		}
		t.first.Store(true)
		if err := until(ctx, time.Now().Add(next), nil); err != nil {
			return err
		}
		next = min(2*next, rescheduleMost)
	}
}
