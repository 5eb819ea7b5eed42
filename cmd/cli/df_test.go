package cli

import (
	"strings"
	"testing"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
)

// df tells what a task writes, and what a collection frees.
func TestDiskUse(t *testing.T) {
	h := newHost(t, "")
	part := func(kind string) client.DiskPart {
		t.Helper()
		d := decoded[client.DiskUse](h, "df")
		for _, p := range d.Parts {
			if p.Kind == kind {
				return p
			}
		}
		t.Fatalf("no %s in %+v", kind, d)
		return client.DiskPart{}
	}
	if p := part("images"); p.Count != 1 || p.Active != 0 || p.Bytes < 1<<20 || p.Reclaimable != 0 {
		t.Errorf("an image: %+v", p)
	}
	h.gives(0, nil, "tag", "prog", "again") // is no other image
	h.gives(0, nil, "run", "-d", "--name", "one", "prog", "fill")
	for part("roots").Bytes < 32<<20 { // it takes its time
		h.awaitState("one", client.Running)
	}
	if p := part("images"); p.Count != 1 || p.Active != 1 {
		t.Errorf("with a task: %+v", p)
	}
	if p := part("unpacked"); p.Count != 1 || p.Active != 1 || p.Bytes < 1<<20 || p.Reclaimable != 0 {
		t.Errorf("unpacked: %+v", p)
	}
	if p := part("roots"); p.Count != 1 || p.Active != 1 || p.Bytes > 64<<20 || p.Reclaimable != 0 {
		t.Errorf("roots: %+v", p)
	}
	h.gives(0, []string{"KIND", "unpacked", "volumes", "RECLAIMABLE", "are free there"}, "df")
	if out := h.gives(0, nil, "df", "--format", "{{.kind}}"); out != "images\nunpacked\nroots\nrecords\nvolumes\n" {
		t.Errorf("df --format: %q", out)
	}
	// By its digest it loses all names, which are told, and is stored for its task without one.
	id := decoded[client.Task](h, "inspect", "one").Digest
	if r := h.freejail("images", "rm", id[7:19]); r.out != "untagged again\nuntagged prog\n" ||
		!strings.Contains(r.errout, "has no name any more, and stays as long as tasks run it: one\n") {
		t.Errorf("images rm by a digest: %+v", r)
	}
	h.gives(app.Failed, []string{"has no name to remove"}, "images", "rm", id)
	if p := part("images"); p.Count != 1 || p.Active != 1 || p.Bytes < 1<<20 || p.Reclaimable != 0 {
		t.Errorf("an image without a name: %+v", p)
	}
	h.gives(0, []string{"0 names of 1 image: "}, "images")
	h.gives(0, nil, "rm", "-f", "one")
	if p, q := part("images"), part("unpacked"); p.Reclaimable != p.Bytes || q.Reclaimable != q.Bytes || q.Bytes == 0 {
		t.Errorf("removed: %+v %+v", p, q)
	}
	h.gives(0, nil, "gc")
	if p, q := part("images"), part("unpacked"); p.Bytes != 0 || q.Bytes != 0 || q.Count != 0 {
		t.Errorf("collected: %+v %+v", p, q)
	}
}
