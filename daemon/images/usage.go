package images

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/storage"
)

// DiskUse measures what freejail has on the disk; of its images alone if only is "images".
func (l *Library) DiskUse(ctx context.Context, only string) (*client.DiskUse, error) {
	if only != "" && only != client.OnlyImages {
		return nil, client.Invalid("df: only=%q is not %s", only, client.OnlyImages)
	}
	out := &client.DiskUse{StateDir: l.Config.StateDir}
	var st unix.Statfs_t
	if err := unix.Statfs(l.Config.StateDir, &st); err != nil {
		return nil, err
	}
	out.Total, out.Free = int64(st.Blocks)*int64(st.Bsize), int64(st.Bavail)*int64(st.Bsize)
	images, err := l.imageUse()
	if err != nil {
		return nil, err
	}
	if only != "" {
		out.Parts = []client.DiskPart{images}
		return out, nil
	}
	chains, roots, err := l.storageUse(ctx)
	if err != nil {
		return nil, err
	}
	records, err := l.recordUse(ctx)
	if err != nil {
		return nil, err
	}
	out.Parts = []client.DiskPart{images, chains, roots, records, l.volumeUse()}
	return out, nil
}

// imageUse counts images by their content.
func (l *Library) imageUse() (client.DiskPart, error) {
	p := client.DiskPart{Kind: "images", Measured: true}
	shared, _ := l.sharedLayers() // images that cannot be read are told by a list of images
	seen := map[string]bool{}
	counted := map[string]bool{}
	for img, err := range l.stored() {
		if err != nil || seen[img.Digest.String()] {
			continue
		}
		seen[img.Digest.String()] = true
		p.Count++
		for _, layer := range img.Layers {
			if shared[layer.Digest] && !counted[layer.Digest.String()] {
				counted[layer.Digest.String()] = true
				p.Shared += layer.Size
			}
		}
	}
	inUse := map[string]bool{}
	for _, t := range l.Tasks.Alive() {
		if seen[t.Digest] && !inUse[t.Digest] {
			inUse[t.Digest] = true
			p.Active++
		}
	}
	var err error
	p.Bytes, p.Reclaimable, err = l.Store.Usage()
	return p, err
}

// storageUse measures the chains and roots of all drivers, of those that have the same ones once.
func (l *Library) storageUse(ctx context.Context) (chains, roots client.DiskPart, err error) {
	chains, roots = client.DiskPart{Kind: "unpacked", Measured: true}, client.DiskPart{Kind: "roots", Measured: true}
	needed, err := l.neededChains()
	if err != nil {
		return chains, roots, err
	}
	alive := map[string]bool{}
	for _, t := range l.Tasks.Alive() {
		alive[t.Key], alive[t.Spec.ID] = true, true
	}
	places := map[string]bool{}
	for _, s := range l.Stores() {
		m, ok := s.(storage.Measurer)
		if !ok || places[m.Place()] {
			continue
		}
		places[m.Place()] = true
		names, err := s.Chains(ctx)
		for _, c := range names {
			if err == nil {
				err = add(&chains, l.Tasks.UsesChain(c), needed[c] || l.Tasks.UsesChain(c), func() (int64, error) {
					return m.ChainOwn(ctx, c)
				})
			}
		}
		var tasks []string
		if err == nil {
			tasks, err = s.Tasks(ctx)
		}
		for _, t := range tasks {
			if err == nil {
				err = add(&roots, alive[t], alive[t], func() (int64, error) { return m.RootOwn(ctx, t) })
			}
		}
		if err != nil {
			return chains, roots, err
		}
	}
	return chains, roots, nil
}

// add counts one more thing. One that went while it was measured has nothing.
func add(p *client.DiskPart, active, needed bool, measure func() (int64, error)) error {
	n, err := measure()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	p.Count++
	if active {
		p.Active++
	}
	if p.Bytes += n; !needed {
		p.Reclaimable += n
	}
	return nil
}

// recordUse measures the journals and logs of tasks, in directories of the daemon's own.
func (l *Library) recordUse(ctx context.Context) (client.DiskPart, error) {
	p := client.DiskPart{Kind: "records", Measured: true}
	alive := map[string]bool{}
	for _, t := range l.Tasks.Alive() {
		alive[t.Key], alive[t.Spec.ID] = true, true
	}
	dir := filepath.Join(l.Config.StateDir, "tasks")
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if err == nil {
			err = add(&p, alive[e.Name()], true, func() (int64, error) {
				return sizeOf(ctx, filepath.Join(dir, e.Name()))
			})
		}
	}
	return p, err
}

func sizeOf(ctx context.Context, dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		fi, err := e.Info()
		if err == nil {
			n += fi.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	return n, err
}

// volumeUse counts directories of the host that tasks have. Their content is the operator's: nothing walks through it.
func (l *Library) volumeUse() client.DiskPart {
	p := client.DiskPart{Kind: "volumes"}
	seen := map[string]bool{}
	for _, t := range l.Tasks.Alive() {
		for _, v := range t.Spec.Volumes {
			if v.Type == "nullfs" && !seen[v.Source] {
				seen[v.Source] = true
				p.Count++
			}
		}
	}
	p.Active = p.Count
	return p
}
