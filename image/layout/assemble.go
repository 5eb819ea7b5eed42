package layout

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/blob"
	"github.com/freejail/freejail/image/chunked"
)

// Bounds of the requests for what is not here of a layer.
const (
	minRun     = 64 << 10  // bytes that are here together, or they are fetched with what is around them
	maxRuns    = 128       // of those, the largest, so that there are as many requests and one
	maxAhead   = 4         // requests for parts before they are needed, of all layers of an image
	aheadBytes = 512 << 10 // of such a part at most, as it is held in memory
)

// part is some of a layer, from a donor, or to be fetched.
type part struct {
	from   *donor // nil: fetched
	offset int64  // there
	size   int64
}

// plan says where the pieces of a layer come from, by its table.
func (r *reusing) plan(ctx context.Context, t chunked.Table, table []byte) (*plan, error) {
	if err := planning.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer planning.Release(1)
	var pieces []chunked.Piece
	err := t.Pieces(table, func(p chunked.Piece) error {
		pieces = append(pieces, p)
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	p := &plan{parts: longRuns(match(pieces, alike(pieces, r.donors))), donors: map[*donor]bool{}}
	here := int64(0)
	for _, part := range p.parts {
		if part.from != nil {
			p.donors[part.from] = true
			here += part.size
		}
	}
	if here < max(minReused, t.Begin()/8) { // all is fetched but the tail, which is here by now
		return &plan{parts: []part{{size: t.Begin()}}}, nil
	}
	return p, nil
}

// alike are the donors that were compressed as the layer was: the same content has the same size in both.
func alike(pieces []chunked.Piece, donors []*donor) []*donor {
	return slices.DeleteFunc(slices.Clone(donors), func(d *donor) bool {
		return slices.ContainsFunc(pieces, func(p chunked.Piece) bool {
			s, ok := d.pieces[p.Key]
			return p.Content && ok && s.size != p.Size
		})
	})
}

// match finds pieces in donors.
func match(pieces []chunked.Piece, donors []*donor) (out []part) {
	for _, p := range pieces {
		next := part{offset: p.Offset, size: p.Size}
		for _, d := range donors {
			if s, ok := d.pieces[p.Key]; ok && s.size == p.Size {
				next.from, next.offset = d, s.offset
				break
			}
		}
		out = appendPart(out, next)
	}
	return out
}

// appendPart makes one part of two that lie together.
func appendPart(parts []part, next part) []part {
	if n := len(parts); n > 0 && parts[n-1].from == next.from && parts[n-1].offset+parts[n-1].size == next.offset {
		parts[n-1].size += next.size
		return parts
	}
	return append(parts, next)
}

// longRuns has what is here be fetched where there is little of it in one place, as a request takes time too.
func longRuns(parts []part) (out []part) {
	type run struct {
		end  int // behind its last part
		size int64
	}
	var runs []run
	for i, p := range parts {
		switch {
		case p.from == nil:
		case len(runs) > 0 && runs[len(runs)-1].end == i:
			runs[len(runs)-1].end++
			runs[len(runs)-1].size += p.size
		default:
			runs = append(runs, run{i + 1, p.size})
		}
	}
	by := slices.Clone(runs)
	slices.SortStableFunc(by, func(a, b run) int { return cmp.Compare(b.size, a.size) })
	kept := map[int]bool{} // by their ends
	for _, r := range by[:min(len(by), maxRuns)] {
		if r.size >= minRun {
			kept[r.end] = true
		}
	}
	at, now := int64(0), 0
	for i, p := range parts {
		if now < len(runs) && i == runs[now].end {
			now++
		}
		if p.from != nil && !kept[runs[now].end] {
			p = part{offset: at, size: p.size}
		}
		at += p.size
		out = appendPart(out, p)
	}
	return out
}

// assembly reads a layer by a plan. It is for one goroutine.
type assembly struct {
	r      *reusing
	d      ocispec.Descriptor
	plan   *plan
	tail   []byte // of the layer, behind the parts
	memory int64

	ctx    context.Context
	cancel func()
	at     int64         // in the layer
	now    int           // the part that is read
	left   int64         // of it
	body   io.ReadCloser // of it, if it is fetched
	whole  bool          // body is all the rest
	early  []*early      // parts that were asked for, in their order
	next   int           // the first part that none was asked for of
}

// early is a part that was asked for before it is needed.
type early struct {
	part   int
	cancel func()
	over   chan struct{}
	b      []byte
	whole  io.ReadCloser // all of the layer from its beginning, which came instead; nil: the part
	err    error
}

// readTail reads what is behind the files. ok is false where that is not had: then body is the layer from its
// beginning, if the other side has given that.
func (a *assembly) readTail(ctx context.Context, t chunked.Table) (body io.ReadCloser, ok bool, err error) {
	body, at, err := a.r.OpenRange(ctx, a.d, t.Begin(), int64(len(a.tail)))
	switch {
	case errors.Is(err, ErrNoRanges):
		a.r.wholly(a.d.Digest, err)
		return nil, false, nil
	case err != nil:
		return nil, false, err
	case at != t.Begin():
		a.r.wholly(a.d.Digest, ErrNoRanges)
		return body, false, nil
	}
	_, err = io.ReadFull(blob.WithContext(ctx, body), a.tail)
	if err = errors.Join(err, body.Close()); cutOff(err) {
		a.r.wholly(a.d.Digest, err)
		return nil, false, nil
	}
	return nil, err == nil, err
}

// cutOff knows parts that end too early, however often they are asked for: there are servers that miscount them.
func cutOff(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }

// begin is called once, with what the plan says.
func (a *assembly) begin(ctx context.Context, offset int64) {
	a.ctx, a.cancel = context.WithCancel(ctx)
	a.at, a.left = offset, 0
	for a.now = 0; a.now < len(a.plan.parts); a.now++ {
		p := a.plan.parts[a.now]
		if offset < p.size {
			a.left = p.size - offset
			break
		}
		offset -= p.size
	}
	a.next = a.now + 1
}

func (a *assembly) Read(b []byte) (int, error) {
	for a.left == 0 && !a.whole {
		if a.now >= len(a.plan.parts)-1 {
			return a.readBehind(b)
		}
		if err := a.endBody(); err != nil {
			return 0, err
		}
		a.now++
		a.left = a.plan.parts[a.now].size
	}
	a.ask()
	n, err := a.read(b)
	a.at += int64(n)
	if !a.whole {
		a.left -= int64(n)
	}
	return n, err
}

// readBehind reads the tail.
func (a *assembly) readBehind(b []byte) (int, error) {
	n := copy(b, a.tail[a.at-(a.d.Size-int64(len(a.tail))):])
	if a.at += int64(n); n == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// read reads some of the part.
func (a *assembly) read(b []byte) (int, error) {
	if a.whole {
		return a.body.Read(b)
	}
	b = b[:min(int64(len(b)), a.left)]
	p := a.plan.parts[a.now]
	if p.from != nil {
		n, err := p.from.file.ReadAt(b, p.offset+p.size-a.left)
		if n > 0 {
			a.r.took(a.plan, n)
			return n, nil
		}
		return 0, a.wholly(fmt.Errorf("layer %s, of which parts are taken: %w", p.from.digest, err), a.at)
	}
	if a.body == nil {
		if err := a.fetch(); err != nil || a.whole {
			return 0, err
		}
	}
	n, err := a.body.Read(b)
	if n > 0 {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return 0, a.orWholly(err)
}

// fetch opens what is left of a part that is not here.
func (a *assembly) fetch() error {
	if len(a.early) > 0 && a.early[0].part == a.now {
		return a.take(a.early[0])
	}
	body, at, err := a.r.OpenRange(a.ctx, a.d, a.at, a.left)
	if err != nil {
		return a.orWholly(err)
	}
	if a.body = body; at == a.at {
		return nil
	}
	a.r.wholly(a.d.Digest, ErrNoRanges)
	return a.passOver(at)
}

// take waits for a part that was asked for.
func (a *assembly) take(e *early) error {
	select {
	case <-e.over:
	case <-a.ctx.Done():
		return a.ctx.Err()
	}
	if a.body = e.whole; a.body != nil {
		e.whole, e.cancel = nil, func() {} // it is read from now on
		a.drop()
		a.r.wholly(a.d.Digest, ErrNoRanges)
		return a.passOver(0)
	}
	a.drop()
	if e.err == nil {
		a.body = io.NopCloser(bytes.NewReader(e.b))
	}
	return a.orWholly(e.err)
}

// ask asks for the next parts before they are needed.
func (a *assembly) ask() {
	for a.next = max(a.next, a.now+1); a.next < len(a.plan.parts) && !a.whole; a.next++ {
		p := a.plan.parts[a.next]
		if p.from != nil {
			continue
		}
		if p.size > aheadBytes || !a.r.ahead.TryAcquire(1) {
			return
		}
		ctx, cancel := context.WithCancel(a.ctx)
		e := &early{part: a.next, cancel: cancel, over: make(chan struct{}), b: make([]byte, p.size)}
		a.early = append(a.early, e)
		go func() {
			defer close(e.over)
			e.whole, e.err = a.readPart(ctx, p, e.b)
		}()
	}
}

func (a *assembly) readPart(ctx context.Context, p part, b []byte) (whole io.ReadCloser, err error) {
	body, at, err := a.r.OpenRange(ctx, a.d, p.offset, p.size)
	if err != nil || at != p.offset {
		return body, err
	}
	_, err = io.ReadFull(blob.WithContext(ctx, body), b)
	return nil, errors.Join(err, body.Close())
}

// drop ends the first part that was asked for.
func (a *assembly) drop() {
	e := a.early[0]
	e.cancel()
	<-e.over
	if e.whole != nil {
		_ = e.whole.Close() // it is not read
	}
	a.early = a.early[1:]
	a.r.ahead.Release(1)
}

// orWholly goes on with the whole layer where its parts are not given.
func (a *assembly) orWholly(err error) error {
	switch {
	case errors.Is(err, ErrNoRanges):
		return a.wholly(err, 0)
	case cutOff(err):
		return a.wholly(err, a.at)
	}
	return err
}

// wholly goes on with the whole layer, from an offset, of which what was read already is passed over.
func (a *assembly) wholly(why error, from int64) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	a.r.wholly(a.d.Digest, why)
	err := a.endBody()
	body, at, oerr := a.r.Ranged.Open(a.ctx, a.d, from)
	if err = errors.Join(err, oerr); oerr != nil {
		return err
	}
	a.body = body
	return errors.Join(err, a.passOver(at))
}

// passOver has the body, which begins at an offset, be the rest of the layer.
func (a *assembly) passOver(at int64) error {
	if at > a.at {
		return fmt.Errorf("blob %s: asked for what follows byte %d, got what follows %d", a.d.Digest, a.at, at)
	}
	a.whole = true
	a.dropAll()
	_, err := io.CopyN(io.Discard, blob.WithContext(a.ctx, a.body), a.at-at)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (a *assembly) endBody() (err error) {
	if a.body != nil {
		err, a.body = a.body.Close(), nil
	}
	return err
}

func (a *assembly) release() {
	reuseMemory.Release(a.memory)
	a.memory, a.tail = 0, nil
}

func (a *assembly) dropAll() {
	for len(a.early) > 0 {
		a.drop()
	}
}

// Close waits for all that was asked for.
func (a *assembly) Close() error {
	a.cancel()
	a.dropAll()
	err := a.endBody()
	a.release()
	return err
}
