package nfsroot

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testnfs"
)

// The protocol's side of a client, against the kernel's server.
func TestProtocol(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	host, err := testnfs.Start(dir)
	if errors.Is(err, testnfs.ErrUnavailable) {
		t.Skip(err)
	}
	check(t, err)
	t.Cleanup(func() { check(t, host.Close()) })
	img := writeExport(t, host.Roots, "web", "the config")
	big := writeExport(t, host.Roots, "big", string(make([]byte, 3*readChunk+17)))
	exports := filepath.Join(t.TempDir(), "exports")
	cfg := ExportConfig{Dir: host.Roots, Clients: []string{testnfs.Network}, V4Root: "/"}
	check(t, os.WriteFile(exports, []byte(cfg.freebsdExports([]string{host.Roots})), 0o600))
	check(t, host.Export(exports))
	s, err := ParseServer(testnfs.URL)
	check(t, err)
	for _, version := range []int{4, 3} {
		t.Run(fmt.Sprintf("version %d", version), func(t *testing.T) { testFind(t, s, host.Roots, img, big, version) })
	}
}

// What is written to another host's file system is found there, by NFSv4.1 with one owner of all that is open.
func TestServedByAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	host, err := testnfs.Start(dir)
	if errors.Is(err, testnfs.ErrUnavailable) {
		t.Skip(err)
	}
	check(t, err)
	t.Cleanup(func() { check(t, host.Close()) })
	exports := filepath.Join(t.TempDir(), "exports")
	check(t, os.WriteFile(exports, []byte("V4: /\n"+host.Roots+" -alldirs -maproot=root -network "+testnfs.Network+"\n"),
		0o600))
	check(t, host.Export(exports))
	check(t, os.Mkdir(filepath.Join(host.Roots, "freejail"), 0o755))
	s, err := ParseServer(testnfs.URL + "/freejail")
	check(t, err)
	base, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	out, err := exec.Command("/sbin/mount_nfs", "-o", "nfsv4,minorversion=1,oneopenown", s.Host+":/mnt", base).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { check(t, mount.Unmount(base)) })
	o := Options{Version: 4, MinorVersion: -1, Timeout: 10 * time.Second}
	e := NewExporter(ExportConfig{Dir: filepath.Join(base, "freejail"), RemoveTree: os.RemoveAll, Served: Served{s, o}})
	if problem, _ := e.Serving(); problem != "" {
		t.Errorf("before the first image: %s", problem)
	}
	img := imageOf("web", "config")
	_, err = e.Export(t.Context(), img)
	check(t, err)
	if problem, _ := e.Serving(); problem != "" {
		t.Error(problem)
	}
	if src, err := Find(t.Context(), []Server{s}, "web", "", o); err != nil || src.Digest != img.Digest {
		t.Errorf("found: %+v %v", src, err)
	}
	if b, err := os.ReadFile(filepath.Join(host.Roots, "freejail", strings.Replace(img.Digest, ":", "-", 1), rootDir,
		"file")); err != nil || string(b) != "config" {
		t.Errorf("the server has %q, %v", b, err)
	}
	e.cfg.Served.By.Path = "/mnt"
	if problem, _ := e.Serving(); !strings.Contains(problem, "another directory") {
		t.Errorf("of another directory: %q", problem)
	}
	e.cfg.Served = Served{}
	if _, err = e.Export(t.Context(), img); err == nil || !strings.Contains(err.Error(), "served_by") {
		t.Errorf("as this host's own: %v", err)
	}
}
