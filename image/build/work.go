package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/blob"
)

// step makes a layer, or none.
type step interface {
	// key is all that the step's layer depends on besides the files that are
	// there before it and the image's platform: a value that JSON can write.
	// It also finds mistakes that only the context can tell.
	key(ctx context.Context, b *work) (any, error)
	run(ctx context.Context, b *work) error
}

// work is a stage that is being built, or that is.
type work struct {
	*builder
	stage  *stage
	config ocispec.Image // of which RootFS and History grow
	layers []ocispec.Descriptor
	view   *view // of the first layers; files brings it up to date
	tree   tree  // for RUN; nil before the first
}

// build runs the steps of a plan and puts the image where it is wanted.
func (b *builder) build(ctx context.Context, p *planner) (*image.Image, error) {
	if err := b.openRunner(p); err != nil {
		return nil, err
	}
	var last *work
	for _, s := range p.needed {
		w, err := b.begin(s)
		if err != nil {
			return nil, err
		}
		if len(p.needed) > 1 {
			b.progress("stage %s", s.title())
		}
		b.built[s] = w
		if err := w.steps(ctx, p.file); err != nil {
			return nil, err
		}
		last = w
	}
	p.stage = last.stage
	c, err := p.imageConfig()
	if err != nil {
		return nil, err
	}
	c.RootFS, c.History, c.Created = last.config.RootFS, last.config.History, &b.epoch
	if b.complete != nil {
		if err := b.complete(ctx, last, &c); err != nil {
			return nil, err
		}
	}
	if err := b.hashes.keep(); err != nil {
		return nil, err
	}
	var config any = c
	if d := last.stage.docker; d.Healthcheck != nil || len(d.OnBuild) > 0 || len(d.Shell) > 0 {
		config = d.In(c)
	}
	return b.finish(ctx, config, last.layers, p.manifest.Name)
}

// begin makes the work of a stage, on top of its parent's or its base's.
func (b *builder) begin(s *stage) (*work, error) {
	w := &work{builder: b, stage: s, config: s.config, view: newView()}
	switch {
	case s.parent != nil:
		from := b.built[s.parent]
		w.config.RootFS, w.config.History, w.layers = from.config.RootFS, from.config.History, from.layers
	case s.base != nil:
		w.layers = s.base.Layers
	}
	w.config.RootFS.DiffIDs = slices.Clone(w.config.RootFS.DiffIDs)
	w.config.History = slices.Clone(w.config.History)
	w.layers = slices.Clone(w.layers)
	return w, nil
}

// steps executes a stage's instructions, or takes what the cache has of them.
func (b *work) steps(ctx context.Context, file *File) error {
	for _, s := range b.stage.planned {
		before := len(b.layers)
		if s.step != nil {
			if err := b.step(ctx, s); err != nil {
				return file.fault(s.in, err)
			}
		}
		b.config.History = append(b.config.History, ocispec.History{Created: &b.epoch,
			CreatedBy: s.in.String(), EmptyLayer: len(b.layers) == before})
	}
	return b.drop() // the layers have what is in it
}

func (b *work) step(ctx context.Context, s planned) error {
	key, err := b.stepKey(ctx, s.step)
	if err != nil {
		return err
	}
	hit, err := b.cached(ctx, key)
	if err != nil {
		return err
	}
	if hit {
		for _, in := range s.instructions() {
			b.progress("line %d: %s (cached)", in.Line, in.title())
		}
		return nil
	}
	if _, many := s.step.(*servedStep); !many { // which tells each of its commands
		b.progress("line %d: %s", s.in.Line, s.in.title())
	}
	before := len(b.layers)
	if err := s.step.run(ctx, b); err != nil {
		return err
	}
	return b.keepStep(ctx, key, before)
}

// files is what the image has so far.
func (b *work) files(ctx context.Context) (*view, error) {
	for b.view.layer < len(b.layers) {
		n := b.view.layer
		b.progress("reading layer %d of %d", n+1, len(b.layers))
		count := b.meter(fmt.Sprintf("reading layer %d of %d", n+1, len(b.layers)), 0)
		if err := b.lookAt(ctx, n, count); err != nil {
			return nil, fmt.Errorf("layer %d: %w", n+1, err)
		}
	}
	return b.view, nil
}

func (b *work) lookAt(ctx context.Context, i int, count func(int)) (err error) {
	r, err := b.openLayer(ctx, i)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if _, seeks := r.(io.Seeker); seeks {
		return b.view.apply(r)
	}
	return b.view.apply(blob.Count(r, count))
}

// drop forgets the tree, which is only for the stage's own RUN.
func (b *work) drop() error {
	if b.tree == nil {
		return nil
	}
	err := b.tree.close()
	b.tree = nil
	return err
}

func (b *builder) warn(format string, a ...any) {
	if b.opts.Warn != nil {
		b.opts.Warn(fmt.Sprintf(format, a...))
	}
}

// meter counts bytes of one thing.
func (b *builder) meter(what string, total int64) func(n int) {
	done := int64(0)
	return func(n int) {
		if done += int64(n); b.opts.Bytes != nil {
			b.opts.Bytes(what, done, total)
		}
	}
}

// told is how far an import or an unpacking is.
func (b *builder) told(what string) func(image.Progress) {
	return func(p image.Progress) {
		if b.opts.Bytes != nil {
			b.opts.Bytes(what, p.Done, p.Size)
		}
	}
}

func (b *builder) progress(format string, a ...any) {
	if b.opts.Progress != nil {
		b.opts.Progress(fmt.Sprintf(format, a...))
	}
}
