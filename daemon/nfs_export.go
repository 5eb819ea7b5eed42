package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/image/unpack"
	"github.com/freejail/freejail/nfsroot"
	"github.com/freejail/freejail/storage"
)

func (d *Daemon) mustExport() error {
	if d.exporter == nil {
		return client.Invalid("this host exports nothing: it has no nfs { export } in its configuration")
	}
	return nil
}

// Export unpacks an image of this host's for others.
func (i taskImages) Export(ctx context.Context, r client.ExportRequest) (*client.Export, error) {
	d := i.d
	if err := d.mustExport(); err != nil {
		return nil, err
	}
	img, release, err := i.Hold(ctx, client.TaskSpec{Image: r.Image}, nil)
	if err != nil {
		return nil, err
	}
	defer release()
	manifest, config, err := d.images.Description(img)
	if err != nil {
		return nil, err
	}
	done, err := d.exporter.Export(ctx, nfsroot.Image{Name: img.Name, Digest: img.Digest.String(), Manifest: manifest, Config: config,
		Fill: func(dir string) error {
			if err := unpack.Image(ctx, d.images, img, dir, nil); err != nil {
				return err
			}
			return storage.MakePoints(dir, task.Points(img))
		}})
	if err != nil {
		return nil, err
	}
	d.event("exported", fmt.Sprintf("image %s, %s, is exported by NFS from %s", img.Name, done.Digest, done.Path))
	out := d.wireExport(*done)
	out.Problem, out.Fix = d.exporter.Serving()
	return &out, nil
}

func (d *Daemon) wireExport(e nfsroot.Exported) client.Export {
	host, err := os.Hostname()
	if err != nil {
		host = "SERVER"
	}
	return client.Export{Names: e.Names, Digest: e.Digest, Path: e.Path, URL: d.cfg.NFS.Export.URL(host)}
}

// Exports are the images that this host exports.
func (i taskImages) Exports() ([]client.Export, error) {
	d := i.d
	if err := d.mustExport(); err != nil {
		return nil, err
	}
	list, err := d.exporter.List()
	if err != nil {
		return nil, err
	}
	problem, fix := d.exporter.Serving()
	out := []client.Export{}
	for _, e := range list {
		w := d.wireExport(e)
		w.Problem, w.Fix = problem, fix
		out = append(out, w)
	}
	return out, nil
}

// Unexport ends the export of an image.
func (i taskImages) Unexport(ctx context.Context, ref string) error {
	d := i.d
	if err := d.mustExport(); err != nil {
		return err
	}
	err := d.exporter.Remove(ctx, ref)
	if errors.Is(err, nfsroot.ErrNotExported) {
		return client.NotFound("image %q is not exported; see `freejail export --list`", ref)
	}
	if err == nil {
		d.event("unexported", fmt.Sprintf("image %s is not exported any more", ref))
	}
	return err
}
