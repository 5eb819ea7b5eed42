package nfsroot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/internal/mount"
)

// newExporter serves a file system of its own.
func newExporter(t *testing.T) (*Exporter, ExportConfig) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	base, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	cfg := ExportConfig{Dir: filepath.Join(base, "roots"),
		Clients: []string{"10.0.0.0/8", "fd00::/8", "runner.example"}, File: filepath.Join(base, "etc", "exports"),
		V4Root: "/", RemoveTree: os.RemoveAll}
	check(t, os.Mkdir(cfg.Dir, 0o755))
	check(t, mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: cfg.Dir, Options: []string{"mode=755"}}))
	t.Cleanup(func() { check(t, mount.UnmountUnder(base)) })
	check(t, cfg.Validate())
	return NewExporter(cfg), cfg
}

// imageOf is an image whose tree has one file.
func imageOf(name, config string) Image {
	manifest := []byte(`{"config":{"digest":"` + sha([]byte(config)) + `"}}`)
	return Image{Name: name, Digest: sha(manifest), Manifest: manifest, Config: []byte(config),
		Fill: func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "file"), []byte(config), 0o644)
		}}
}

// fromDisk reads what is exported as a client does, but without a server.
type fromDisk struct{}

func (fromDisk) readFile(name string, _ int) ([]byte, error) { return os.ReadFile(name) }
func (fromDisk) close()                                      {}

func TestExport(t *testing.T) {
	e, cfg := newExporter(t)
	ctx := context.Background()
	web, db := imageOf("web", "config of web"), imageOf("db:16", "config of db")
	for _, img := range []Image{web, db} {
		done, err := e.Export(ctx, img)
		check(t, err)
		if b, err := os.ReadFile(filepath.Join(done.Path, rootDir, "file")); err != nil ||
			string(b) != string(img.Config) {
			t.Errorf("%s: %q %v", img.Name, b, err)
		}
		for _, ref := range [][2]string{{img.Name, ""}, {"", img.Digest}} {
			src := &Source{Server: Server{Path: cfg.Dir}, Digest: ref[1]}
			if err := src.read(fromDisk{}, ref[0]); err != nil || src.Digest != img.Digest || src.Name != img.Name {
				t.Errorf("a client finds %+v, %v", src, err)
			}
		}
	}
	// A second name is one more of the same tree; a name moves on to another image.
	alias := web
	alias.Name, alias.Fill = "web:old", func(string) error { return errors.New("it is there already") }
	_, err := e.Export(ctx, alias)
	check(t, err)
	newer := imageOf("web", "config of a newer web")
	_, err = e.Export(ctx, newer)
	check(t, err)
	list, err := e.List()
	check(t, err)
	got := map[string]string{}
	for _, x := range list {
		got[x.Digest] = strings.Join(x.Names, ",")
	}
	if len(list) != 3 || got[web.Digest] != "web:old" || got[newer.Digest] != "web" || got[db.Digest] != "db:16" {
		t.Errorf("list: %v", got)
	}
	wantError(t, "remove nothing", e.Remove(ctx, "nobody"), ErrNotExported)
	check(t, e.Remove(ctx, "web:latest"))
	check(t, e.Remove(ctx, db.Digest))
	if list, err = e.List(); err != nil || len(list) != 1 || list[0].Digest != web.Digest {
		t.Errorf("after the removals: %+v %v", list, err)
	}
	check(t, e.Remove(ctx, "web:old"))
	entries, err := os.ReadDir(cfg.Dir)
	if names := fileNames(entries); err != nil || !slices.Equal(names, []string{indexFile}) {
		t.Errorf("left: %v %v", names, err)
	}
}

func fileNames(entries []os.DirEntry) (out []string) {
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// An image appears whole or not at all, and what was cut off is swept up.
func TestExportIsWhole(t *testing.T) {
	e, cfg := newExporter(t)
	ctx := context.Background()
	img, bad := imageOf("web", "config"), errors.New("a broken layer")
	fill := img.Fill
	img.Fill = func(dir string) error { return errors.Join(fill(dir), bad) }
	_, err := e.Export(ctx, img)
	wantError(t, "a broken layer", err, bad)
	check(t, os.MkdirAll(filepath.Join(cfg.Dir, halfMade+"1", rootDir), 0o755))
	entries, err := os.ReadDir(cfg.Dir)
	if names := fileNames(entries); err != nil || !slices.Equal(names, []string{halfMade + "1"}) {
		t.Errorf("left: %v %v", names, err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	img.Fill = fill
	_, err = e.Export(cancelled, img)
	wantError(t, "cancelled", err, context.Canceled)
	_, err = e.Export(ctx, img)
	check(t, err)
	if entries, err = os.ReadDir(cfg.Dir); err != nil || len(entries) != 2 {
		t.Errorf("left: %v %v", fileNames(entries), err)
	}
}

// What is not served, or by another host than the configuration says, is not written.
func TestExportOfAnothersServer(t *testing.T) {
	e, cfg := newExporter(t)
	e.cfg.Served = Served{Server{"127.0.0.1", closedPort(t), "/roots"}, Options{Version: 4, Timeout: time.Second}}
	_, err := e.Export(context.Background(), imageOf("web", "config"))
	if err == nil || !strings.Contains(err.Error(), "is no NFS mount") {
		t.Errorf("to a local file system: %v", err)
	}
	if entries, err := os.ReadDir(cfg.Dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v %v", fileNames(entries), err)
	}
	if problem, fix := e.Serving(); !strings.Contains(problem, "does not answer") || !strings.Contains(fix, "2049") {
		t.Errorf("%q, %q", problem, fix)
	}
	e.cfg.Dir += "/none"
	if _, err = e.Export(context.Background(), imageOf("web", "config")); !errors.Is(err, fs.ErrNotExist) ||
		!strings.Contains(err.Error(), "make it on nfs://127.0.0.1") {
		t.Errorf("to nothing: %v", err)
	}
	if url := e.cfg.URL("builder"); url != e.cfg.Served.By.String() {
		t.Errorf("clients name it %s", url)
	}
	if err := e.cfg.Validate(); err == nil { // it has clients
		t.Error("another's server has clients of this host's choice")
	}
}

func TestExportsFile(t *testing.T) {
	cfg := ExportConfig{Dir: "/export/freejail", Clients: []string{"10.0.0.0/24", "fd00::/64", "runner.example"},
		V4Root: "/export"}
	want := exportsHead + `V4: /export
/export/freejail -alldirs -ro -maproot=root -network 10.0.0.0/24
/export/freejail -alldirs -ro -maproot=root -network fd00::/64
/export/freejail -alldirs -ro -maproot=root runner.example
/export/freejail/sha256-ab -alldirs -ro -maproot=root -network 10.0.0.0/24
/export/freejail/sha256-ab -alldirs -ro -maproot=root -network fd00::/64
/export/freejail/sha256-ab -alldirs -ro -maproot=root runner.example
`
	if got := cfg.freebsdExports([]string{"/export/freejail", "/export/freejail/sha256-ab"}); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := cfg.linuxExports(); got != exportsHead+"/export/freejail 10.0.0.0/24(ro,no_root_squash,no_subtree_check)"+
		" fd00::/64(ro,no_root_squash,no_subtree_check) runner.example(ro,no_root_squash,no_subtree_check)\n" {
		t.Errorf("got\n%s", got)
	}
	if url := cfg.URL("builder"); url != "nfs://builder/freejail" {
		t.Errorf("clients name it %s", url)
	}
	cfg.V4Root = "/"
	if url := cfg.URL("builder"); url != "nfs://builder/export/freejail" {
		t.Errorf("clients name it %s", url)
	}
}

func TestOptions(t *testing.T) {
	o := Options{Version: 4, MinorVersion: -1}
	for _, want := range []string{"ro", "nosuid", "noatime", "intr", "nfsv4", "dirpath=/roots/x", "oneopenown"} {
		if got := o.freebsdV4("/roots/x"); !slices.Contains(got, want) {
			t.Errorf("%v lacks %s", got, want)
		}
	}
	o = Options{Version: 4, MinorVersion: 2, Soft: true, Retrans: 3, NConnect: 4, ReadSize: 65536, AllowSetuid: true}
	got := o.freebsdV4("/roots/x")
	for _, want := range []string{"minorversion=2", "soft", "retrans=3", "nconnect=4", "rsize=65536"} {
		if !slices.Contains(got, want) {
			t.Errorf("%v lacks %s", got, want)
		}
	}
	if slices.Contains(got, "nosuid") {
		t.Errorf("%v forbids what is allowed", got)
	}
	o.Version = 3
	if got := o.freebsdV3(2050); !slices.Contains(got, "port=2050") || !slices.Contains(got, "nfsv3") ||
		!slices.Contains(got, "nolockd") || slices.Contains(got, "nconnect=4") {
		t.Errorf("version 3: %v", got)
	}
	if got := o.linux("10.0.0.5", 2049); !slices.Contains(got, "addr=10.0.0.5") ||
		!slices.Contains(got, "vers=3,nolock") {
		t.Errorf("Linux: %v", got)
	}
}
