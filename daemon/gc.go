package daemon

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
)

func (d *Daemon) handleGC(r *http.Request) (any, error) {
	var in client.GCRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if in.Older != nil && *in.Older < 0 || in.MaxSize != nil && *in.MaxSize < 0 {
		return nil, invalid("gc: an age or a size below zero cannot be meant")
	}
	return d.gc(r.Context(), in)
}

// pruneOptions are the host's settings, or what a request says instead.
func (d *Daemon) pruneOptions(r client.GCRequest) (o image.PruneOptions, err error) {
	if o.Older, err = time.ParseDuration(d.cfg.GC.Older); err != nil {
		return o, fmt.Errorf("host configuration: gc: %w", err)
	}
	if o.MaxSize, err = size(d.cfg.GC.MaxSize); err != nil {
		return o, fmt.Errorf("host configuration: gc: %w", err)
	}
	if r.Older != nil {
		o.Older = *r.Older
	}
	if r.MaxSize != nil {
		o.MaxSize = *r.MaxSize
	}
	held := map[string]bool{}
	for _, t := range d.list() {
		if i := t.snapshot(); i.State != client.Exited {
			held[i.Digest] = true
		}
	}
	o.Prunable = func(name string, digest digest.Digest) bool { return namedByPath(name) && !held[digest.String()] }
	return o, nil
}

// namedByPath knows the names that pathName gives.
func namedByPath(name string) bool {
	return strings.HasPrefix(name, "file/") || strings.HasPrefix(name, "path-sha256/")
}

// gc removes exited tasks of the CLI, images by a path that were not used for
// long, chains that no image needs, and blobs that no image names.
func (d *Daemon) gc(ctx context.Context, r client.GCRequest) (*client.GCResult, error) {
	res := &client.GCResult{}
	for _, t := range d.list() {
		if i := t.snapshot(); i.State == client.Exited && i.Spec.Owner == "cli" {
			if err := d.Destroy(ctx, i.Spec.ID, false); err != nil {
				return res, err
			}
			res.Tasks++
		}
	}
	d.gate.Lock() // no start may be between its image and its root
	defer d.gate.Unlock()
	o, err := d.pruneOptions(r)
	if err != nil {
		return res, err
	}
	if res.Images, err = d.images.Prune(ctx, o); err != nil {
		return res, err
	}
	freed, err := d.images.GC(ctx)
	if err != nil {
		return res, err
	}
	res.Bytes = freed
	list, err := d.images.List()
	if err != nil {
		return res, err
	}
	needed := map[string]bool{}
	for _, img := range list {
		needed[img.ChainID.Encoded()] = true
	}
	s, err := d.storage("")
	if err != nil {
		return res, err
	}
	chains, err := s.Chains(ctx)
	if err != nil {
		return res, err
	}
	for _, c := range chains {
		if needed[c] || d.chainInUse(c) {
			continue
		}
		if err := s.RemoveChain(ctx, c); err != nil {
			return res, err
		}
		res.Chains++
	}
	return res, nil
}

func (d *Daemon) chainInUse(chain string) bool {
	for _, t := range d.list() {
		i := t.snapshot()
		if i.State == client.Exited || i.Digest == "" {
			continue
		}
		if img, err := d.images.Get(i.Digest); err != nil || img.ChainID.Encoded() == chain {
			return true // unknown counts as in use
		}
	}
	return false
}
