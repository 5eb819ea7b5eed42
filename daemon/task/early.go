package task

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
)

// maxEarly is how many images are unpacked at once while they arrive. They have memory of their own, as one whose
// registry is slow must not keep those waiting that need none.
const maxEarly = 2

// waitForEarly is how long an image that is here waits for another that arrives and has layers in common. A variable
// for tests.
var waitForEarly = 2 * time.Second

// earlyOnes are those of a host.
type earlyOnes struct {
	mu  sync.Mutex
	all map[*early]bool
}

// add takes one of the places, if one is free.
func (o *earlyOnes) add(e *early) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.all) >= maxEarly {
		return false
	}
	if o.all == nil {
		o.all = map[*early]bool{}
	}
	o.all[e] = true
	return true
}

func (o *earlyOnes) remove(e *early) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, e)
}

// yield stops those of other images that have a layer in common with one which is here: their registries may be slow.
func (o *earlyOnes) yield(img *image.Image) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for e := range o.all {
		if e.img.Digest != img.Digest && slices.ContainsFunc(e.img.Chains,
			func(c digest.Digest) bool { return slices.Contains(img.Chains, c) }) {
			e.cancel()
		}
	}
}

// early unpacks an image while its layers arrive, for who then finds it unpacked. Where it fails, prepare tells why.
type early struct {
	m      *Manager
	root   localRoot
	img    *image.Image
	cancel context.CancelFunc
	done   chan struct{}
}

// begin begins where the host's policy permits the task already: what it refuses is not unpacked.
func (e *early) begin(ctx context.Context, spec client.TaskSpec, img *image.Image, arriving Unpacker) {
	if !e.permitted(spec, img) {
		return
	}
	store, err := e.m.Stores(spec.Storage)
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	e.img, e.cancel = img, cancel
	if !e.m.early.add(e) {
		cancel()
		return
	}
	e.done = make(chan struct{})
	go func() {
		defer close(e.done)
		release, err := e.root.unpack(ctx, spec.ID, img, arriving, store)
		e.m.early.remove(e)
		if err != nil {
			e.m.Log.Debug("unpacking while it arrives", "task", spec.ID, "image", img.Name, "error", err)
			return
		}
		<-ctx.Done() // no collection takes it from the start that it is for
		release()
	}()
}

func (e *early) permitted(spec client.TaskSpec, img *image.Image) bool {
	p, err := e.m.makePlan(spec, img)
	if err != nil {
		return false
	}
	_, dec, err := e.m.Judge.Decision(spec, img, p.requests)
	return p.close() == nil && err == nil && dec.Allowed
}

// end stops what has been begun. Nothing of it is left but what is whole.
func (e *early) end() {
	if e.done != nil {
		e.cancel()
		<-e.done
	}
}
