package storage

import (
	"os/exec"
	"testing"
)

// The snapshots that somebody makes of all datasets of a pool go with a task's
// root; a clone of one keeps it, and that is said. TestSnapshotsOfSpares is of
// roots that are destroyed behind an end.
func TestSnapshotsOfRoots(t *testing.T) {
	z, ctx := openFor(t, "zfs").(*zfsDriver), t.Context()
	zfsRun(t, "set", "sync=standard", z.parent+"/roots") // so that there are no spares
	d, err := Open("zfs", z.dir, Config{ZFSDataset: z.parent})
	if err != nil {
		t.Fatal(err)
	}
	check(t, ensure(ctx, d, "c1", func(string) error { return nil }))
	if _, err := d.Create(ctx, "c1", "t", Options{}); err != nil {
		t.Fatal(err)
	}
	root := d.(*zfsDriver).root("t")
	zfsRun(t, "snapshot", root+"@auto")
	zfsRun(t, "clone", root+"@auto", d.(*zfsDriver).parent+"/kept")
	if err := d.Remove(ctx, "t"); err == nil {
		t.Error("a clone of its snapshot does not keep it")
	}
	zfsRun(t, "destroy", d.(*zfsDriver).parent+"/kept")
	check(t, d.Remove(ctx, "t"))
	if left, err := d.Tasks(ctx); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

func zfsRun(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("zfs", args...).CombinedOutput(); err != nil {
		t.Fatalf("zfs %v: %v: %s", args, err, out)
	}
}
