package images

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

func (l *Library) mustExport() error {
	if l.Exporter == nil {
		return client.Invalid("this host exports nothing: nfs { export } is not set in the host configuration")
	}
	return nil
}

// Export unpacks an image of this host's for others.
func (l *Library) Export(ctx context.Context, r client.ExportRequest) (*client.Export, error) {
	if err := l.mustExport(); err != nil {
		return nil, err
	}
	img, release, err := l.Hold(ctx, client.TaskSpec{Image: r.Image}, nil)
	if err != nil {
		return nil, err
	}
	defer release()
	manifest, config, err := l.Store.Description(img)
	if err != nil {
		return nil, err
	}
	tell := task.ToldNowAndThen(img.Name, func(text string) { l.Tell("", "unpacking", text) })
	done, err := l.Exporter.Export(ctx, nfsroot.Image{Name: img.Name, Digest: img.Digest.String(),
		Manifest: manifest, Config: config,
		Fill: func(dir string) error {
			if err := unpack.Image(ctx, l.Store, img, dir, tell); err != nil {
				return err
			}
			points, err := task.Points(img)
			if err != nil {
				return err
			}
			return storage.MakePoints(dir, points)
		}})
	if err != nil {
		return nil, err
	}
	l.Tell("", "exported", fmt.Sprintf("image %s, %s, is exported by NFS from %s", img.Name, done.Digest, done.Path))
	out := l.wireExport(*done)
	out.Problem, out.Fix = l.Exporter.Serving()
	return &out, nil
}

func (l *Library) wireExport(e nfsroot.Exported) client.Export {
	host, err := os.Hostname()
	if err != nil {
		host = "SERVER"
	}
	return client.Export{Names: e.Names, Digest: e.Digest, Path: e.Path, URL: l.Config.NFS.Export.URL(host)}
}

// Exports are the images that this host exports.
func (l *Library) Exports() ([]client.Export, error) {
	if err := l.mustExport(); err != nil {
		return nil, err
	}
	list, err := l.Exporter.List()
	if err != nil {
		return nil, err
	}
	problem, fix := l.Exporter.Serving()
	out := []client.Export{}
	for _, e := range list {
		w := l.wireExport(e)
		w.Problem, w.Fix = problem, fix
		out = append(out, w)
	}
	return out, nil
}

// Unexport ends the export of an image.
func (l *Library) Unexport(ctx context.Context, ref string) error {
	if err := l.mustExport(); err != nil {
		return err
	}
	err := l.Exporter.Remove(ctx, ref)
	if errors.Is(err, nfsroot.ErrNotExported) {
		return client.NotFound("image %q is not exported; see `freejail export --list`", ref)
	}
	if err == nil {
		l.Tell("", "unexported", fmt.Sprintf("image %s is no longer exported", ref))
	}
	return err
}
