package mount

import (
	"os"
	"testing"
)

// A file is mounted over a file, read-only, and goes with what is below the root.
func TestFileOverFile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := realTemp(t)
	if err := os.MkdirAll(dir+"/root/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{dir + "/file", dir + "/root/etc/conf"} {
		if err := os.WriteFile(f, []byte(f), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := UnmountUnder(dir); err != nil {
			t.Error(err)
		}
	})
	mountIn(t, dir, dir+"/root", "etc/conf", Mount{Type: "nullfs", From: place(t, dir+"/file"),
		Options: []string{"ro"}})
	if b, err := os.ReadFile(dir + "/root/etc/conf"); err != nil || string(b) != dir+"/file" {
		t.Errorf("it reads %q, %v", b, err)
	}
	if err := os.WriteFile(dir+"/root/etc/conf", nil, 0o644); err == nil {
		t.Error("a read-only file was written to")
	}
	list, err := Below(dir)
	for _, m := range list { // an rm -r would find its own descriptors there
		if m.Type == "fdescfs" {
			t.Errorf("descriptors are left at %s", m.Target)
		}
	}
	if err != nil || len(list) != 1 {
		t.Errorf("mounted: %v %v", list, err)
	}
	if err := UnmountBelow(dir+"/root", dir+"/fd"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(dir + "/root/etc/conf"); err != nil || string(b) != dir+"/root/etc/conf" {
		t.Errorf("unmounted, it reads %q, %v", b, err)
	}
}
