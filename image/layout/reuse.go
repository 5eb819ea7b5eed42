package layout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/freejail/freejail/image/chunked"
	"github.com/freejail/freejail/internal/imagename"
)

// Ranged is an Origin that gives parts of a layer.
type Ranged interface {
	Origin
	// OpenRange reads n bytes of a layer from an offset on, or all of it from the beginning where it cannot do that; at
	// tells which. The error is ErrNoRanges where asking again would not help, but for another way.
	OpenRange(ctx context.Context, d ocispec.Descriptor, offset, n int64) (r io.ReadCloser, at int64, err error)
}

// ErrNoRanges is a Ranged's that will not give a part of a layer.
var ErrNoRanges = errors.New("parts of a layer are not given")

// Bounds of what is taken from layers that are here.
const (
	maxDonors     = 8  // layers that parts are taken from, for one image
	maxTried      = 32 // layers whose tables are read for those
	maxDonorsOf   = 50 // images whose manifests are read to find those
	maxPieces     = 2 * chunked.MaxEntries
	maxTables     = 2 * chunked.MaxPlain // bytes of tables that are read of an image, and as many of the donors
	minReused     = 64 << 10             // of a layer, in bytes: less is not worth the while, nor is an eighth
	maxMisleading = 1000
	reuseAtOnce   = 96 << 20 // bytes of memory, of all pulls of this process
	pieceMemory   = 80       // of those, for a piece of a donor
	partMemory    = 32       // and for a part
)

// reuseMemory is taken without waiting: who gets none fetches layers as they are.
var reuseMemory = semaphore.NewWeighted(reuseAtOnce)

// planning lets one layer after the other be planned, as that takes memory and the processor.
var planning = semaphore.NewWeighted(1)

// reusing is an Origin that takes from layers which are here what they have in common with those that are fetched:
// where both are zstd:chunked and the other Origin gives parts. What comes of it is verified as if all had been
// fetched, and fetched as a whole where it is wrong.
type reusing struct {
	Ranged
	store      *Store
	repository string
	layers     []ocispec.Descriptor
	tell       func(string)
	reused     func(n int64) // told of bytes that need not be fetched
	ahead      *semaphore.Weighted

	looked bool     // for donors; guarded by planning
	donors []*donor // which stay open; guarded by planning
	memory int64    // for them

	mu     sync.Mutex
	plans  map[digest.Digest]*plan // of layers that were begun
	tables int64                   // bytes of those that were read
}

// donor is a layer that is here.
type donor struct {
	digest digest.Digest
	file   *os.File
	pieces map[[16]byte]span
}

// span are bytes of a layer.
type span struct{ offset, size int64 }

// plan is how a layer is put together; one without donors is fetched as it is.
type plan struct {
	parts  []part
	donors map[*donor]bool
	reused int64
}

// reusing is nil where an Origin gives no parts.
func (s *Store) reusing(from Origin, name string, layers []ocispec.Descriptor, tell func(string),
	reused func(int64)) *reusing {
	ranged, ok := from.(Ranged)
	if !ok {
		return nil
	}
	if tell == nil {
		tell = func(string) {}
	}
	return &reusing{Ranged: ranged, store: s, repository: repositoryOf(name), layers: layers, reused: reused,
		tell: tell, ahead: semaphore.NewWeighted(maxAhead), plans: map[digest.Digest]*plan{}}
}

func repositoryOf(name string) string { return imagename.Canonical(imagename.Repository(name)) }

// Source is that of the other Origin.
func (r *reusing) Source() string { return sourceOf(r.Ranged) }

// Refuse has a layer fetched as it is that was not put together rightly, or else asks the other Origin.
func (r *reusing) Refuse(d digest.Digest) bool {
	if p := r.giveUp(d); p != nil {
		for donor := range p.donors {
			r.store.misled(r.repository, donor.digest)
		}
		r.wholly(d, errMisled)
		return true
	}
	f, ok := r.Ranged.(Fallback)
	return ok && f.Refuse(d)
}

// Open puts a layer together, from an offset on, or has the other Origin give it.
func (r *reusing) Open(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, int64, error) {
	t, ok := chunked.TableOf(d)
	if !ok || offset >= t.Begin() || t.Begin() < minReused || !r.begin(d.Digest, t) {
		return r.Ranged.Open(ctx, d, offset)
	}
	rc, at, err := r.assemble(ctx, d, t, offset)
	if rc == nil && err == nil {
		return r.Ranged.Open(ctx, d, offset)
	}
	return rc, at, err
}

// begin is true once for a layer: one that is opened again was wrong, maybe by what an earlier pull has left.
// Nor is it true where more tables would have to be read than is allowed: they compress well.
func (r *reusing) begin(d digest.Digest, t chunked.Table) bool {
	r.giveUp(d)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.plans[d] != nil || r.tables+t.Plain > maxTables {
		return false
	}
	r.plans[d] = &plan{}
	r.tables += t.Plain
	return true
}

// assemble gives neither a reader nor an error where the layer is to be fetched as it is.
func (r *reusing) assemble(ctx context.Context, d ocispec.Descriptor, t chunked.Table, offset int64) (io.ReadCloser,
	int64, error) {
	if found, err := r.find(ctx); !found {
		return nil, 0, err
	}
	tail := d.Size - t.Begin()
	if !reuseMemory.TryAcquire(tail) {
		return nil, 0, nil
	}
	a := &assembly{r: r, d: d, memory: tail, tail: make([]byte, tail)}
	if body, ok, err := a.readTail(ctx, t); !ok {
		a.release()
		return body, 0, err
	}
	p, err := r.plan(ctx, t, a.tail[t.Offset-t.Begin():][:t.Size])
	if err == nil && !reuseMemory.TryAcquire(int64(len(p.parts))*partMemory) {
		err = errors.New("too little memory is left")
	}
	if err != nil {
		a.release()
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		r.wholly(d.Digest, err)
		return nil, 0, nil
	}
	a.memory += int64(len(p.parts)) * partMemory
	r.mu.Lock()
	a.plan, r.plans[d.Digest] = p, p
	r.mu.Unlock()
	a.begin(ctx, offset)
	return a, offset, nil
}

// wholly tells why a layer is fetched as it is, though parts of it may be here.
func (r *reusing) wholly(d digest.Digest, why error) {
	r.tell(fmt.Sprintf("layer %s is fetched as a whole: %v", d, why))
}

var errMisled = errors.New("what its table of contents tells of layers that are here is not so")

// giveUp forgets the plan of a layer; nil is one that was fetched as it is.
func (r *reusing) giveUp(d digest.Digest) *plan {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.plans[d]
	if p == nil || len(p.donors) == 0 {
		return nil
	}
	r.plans[d] = &plan{}
	r.reused(-p.reused)
	return p
}

// took counts bytes of a layer that were here.
func (r *reusing) took(p *plan, n int) {
	r.mu.Lock()
	p.reused += int64(n)
	r.mu.Unlock()
	r.reused(int64(n))
}

// misled notes that a layer was of no use for one of a repository, whose tables say otherwise.
func (s *Store) misled(repository string, d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.misleading == nil || len(s.misleading) >= maxMisleading {
		s.misleading = map[string]bool{}
	}
	s.misleading[repository+" "+d.String()] = true
}

func (s *Store) misleads(repository string, d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.misleading[repository+" "+d.String()]
}

// find looks for donors, once, and tells whether there are some.
func (r *reusing) find(ctx context.Context) (bool, error) {
	if err := planning.Acquire(ctx, 1); err != nil {
		return false, err
	}
	defer planning.Release(1)
	if r.looked || !reuseMemory.TryAcquire(maxPieces*pieceMemory) {
		return len(r.donors) > 0, nil
	}
	r.looked = true
	left, tables := maxPieces, int64(0)
	for _, l := range r.candidates() {
		t, _ := chunked.TableOf(l)
		if tables += t.Plain; tables > maxTables {
			break
		}
		d, err := r.store.donor(l, left)
		if err == nil {
			r.donors = append(r.donors, d)
			left -= len(d.pieces)
		} else if errors.Is(err, errTable) { // it is of no use, and not read again
			r.store.misled(r.repository, l.Digest)
		}
		if len(r.donors) == maxDonors || ctx.Err() != nil {
			break
		}
	}
	r.memory = int64(maxPieces-left) * pieceMemory
	reuseMemory.Release(int64(left) * pieceMemory)
	return len(r.donors) > 0, ctx.Err()
}

// candidates are layers that may become donors: those of the same repository first, and of each the newest. A layer
// that a job's own credentials have brought is none for other repositories: what is not asked for tells a registry
// what is here.
func (r *reusing) candidates() (out []ocispec.Descriptor) {
	idx, err := r.store.Index()
	if err != nil {
		return nil
	}
	same := func(d ocispec.Descriptor) bool { return repositoryOf(d.Annotations[refName]) == r.repository }
	images := slices.DeleteFunc(idx.Manifests, func(d ocispec.Descriptor) bool { return private(d) && !same(d) })
	slices.SortStableFunc(images, func(a, b ocispec.Descriptor) int {
		switch {
		case same(a) == same(b):
			return 0
		case same(a):
			return -1
		}
		return 1
	})
	seen := map[digest.Digest]bool{}
	for _, l := range r.layers {
		seen[l.Digest] = true
	}
	for _, d := range images[:min(len(images), maxDonorsOf)] {
		m, err := r.store.manifestOf(d)
		if err != nil {
			continue
		}
		slices.SortFunc(m.Layers, func(a, b ocispec.Descriptor) int { return cmp.Compare(b.Size, a.Size) })
		for _, l := range m.Layers {
			if _, ok := chunked.TableOf(l); ok && !seen[l.Digest] && !r.store.misleads(r.repository, l.Digest) {
				seen[l.Digest] = true
				out = append(out, l)
			}
		}
		if len(out) >= 2*maxDonors {
			break
		}
	}
	return out[:min(len(out), maxTried)]
}

var errManyPieces = errors.New("too many pieces")

// errTable is a donor's whose table of contents is no good, whoever opens it and whenever.
var errTable = errors.New("it is of no use")

// donor opens a layer, of at most so many pieces.
func (s *Store) donor(l ocispec.Descriptor, most int) (*donor, error) {
	t, _ := chunked.TableOf(l)
	f, err := s.openSized(l)
	if err != nil {
		return nil, err
	}
	d := &donor{l.Digest, f, map[[16]byte]span{}}
	table := make([]byte, t.Size)
	if _, err = f.ReadAt(table, t.Offset); err == nil {
		err = t.Pieces(table, func(p chunked.Piece) error {
			if len(d.pieces) == most {
				return errManyPieces
			}
			d.pieces[p.Key] = span{p.Offset, p.Size}
			return nil
		})
		if err != nil && !errors.Is(err, errManyPieces) {
			err = fmt.Errorf("%w: %w", errTable, err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return d, nil
}

// close lets go of the donors, when nothing is read any more.
func (r *reusing) close() error {
	var errs []error
	for _, d := range r.donors {
		errs = append(errs, d.file.Close())
	}
	reuseMemory.Release(r.memory)
	return errors.Join(errs...)
}
