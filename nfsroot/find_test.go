package nfsroot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// writeExport lays an image without layers into a directory of roots by hand,
// and returns its digest.
func writeExport(t *testing.T, dir, name, config string) string {
	t.Helper()
	manifest := fmt.Appendf(nil, `{"config":{"digest":%q},"layers":[],"annotations":{"of":%q}}`, sha([]byte(config)),
		name)
	digest := sha(manifest)
	img := filepath.Join(dir, strings.Replace(digest, ":", "-", 1))
	check(t, os.MkdirAll(filepath.Join(img, rootDir), 0o755))
	check(t, os.WriteFile(filepath.Join(img, manifestFile), manifest, 0o644))
	check(t, os.WriteFile(filepath.Join(img, configFile), []byte(config), 0o644))
	var x index
	if b, err := os.ReadFile(filepath.Join(dir, indexFile)); err == nil {
		check(t, json.Unmarshal(b, &x))
	}
	x.Images = append(x.Images, Entry{name, digest})
	b, err := json.Marshal(x)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, indexFile), b, 0o644))
	return digest
}

// testFind looks for the images web, with "the config", and big, which lie in
// dir on this host.
func testFind(t *testing.T, s Server, dir, web, big string, version int) {
	o := Options{Version: version, MinorVersion: -1, Timeout: 10 * time.Second}
	ctx := context.Background()
	check(t, s.Ping(ctx, o))
	for _, ref := range [][2]string{{"web", ""}, {"web:latest", ""}, {"web", web}, {"", web}} {
		src, err := Find(ctx, []Server{s}, ref[0], ref[1], o)
		if err != nil {
			t.Errorf("%q: %v", ref, err)
			continue
		}
		if src.Digest != web || string(src.Config) != "the config" || !strings.HasPrefix(src.Name, "web") ||
			sha(src.Manifest) != web {
			t.Errorf("%q: %+v", ref, src)
		}
	}
	src, err := Find(ctx, []Server{s}, "big", "", o)
	check(t, err)
	if len(src.Config) != 3*readChunk+17 {
		t.Errorf("a file of several parts has %d bytes", len(src.Config))
	}
	gone := sha([]byte("nothing"))
	for _, ref := range [][2]string{{"nobody", ""}, {"", gone}, {"web", big}, {"nobody", web}} {
		_, err := Find(ctx, []Server{s}, ref[0], ref[1], o)
		wantError(t, strings.Join(ref[:], "@"), err, ErrNotExported)
	}
	wrong := s
	wrong.Path = s.Path + "/none"
	if _, err := Find(ctx, []Server{wrong}, "web", "", o); err == nil {
		t.Error("a path that is not exported is one")
	}
	// The second of two servers, behind one that is away.
	away := Server{Host: "127.0.0.1", Port: closedPort(t), Path: s.Path}
	if version == 4 {
		if src, err = Find(ctx, []Server{away, s}, "web", "", o); err != nil || src.Server != s {
			t.Errorf("the second server: %+v %v", src, err)
		}
		_, err = Find(ctx, []Server{away}, "web", "", o)
		wantError(t, "a closed port", err, ErrAway)
	}
	testForged(t, ctx, s, o, dir, web)
}

// testForged exchanges what the digests are of.
func testForged(t *testing.T, ctx context.Context, s Server, o Options, dir, digest string) {
	img := filepath.Join(dir, strings.Replace(digest, ":", "-", 1))
	for _, name := range []string{configFile, manifestFile} {
		path := filepath.Join(img, name)
		was, err := os.ReadFile(path)
		check(t, err)
		check(t, os.WriteFile(path, append(was, ' '), 0o644))
		if _, err := Find(ctx, []Server{s}, "", digest, o); err == nil ||
			!strings.Contains(err.Error(), "another content") {
			t.Errorf("a forged %s: %v", name, err)
		}
		check(t, os.WriteFile(path, was, 0o644))
	}
	path := filepath.Join(img, configFile)
	was, err := os.ReadFile(path)
	check(t, err)
	check(t, os.Truncate(path, 1<<40))
	if _, err := Find(ctx, []Server{s}, "", digest, o); err == nil {
		t.Error("a config of 1 TiB was read")
	}
	check(t, os.WriteFile(path, was, 0o644))
}

// closedPort is one that nobody listens on.
func closedPort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// A server that sends nonsense, or nothing, costs an error and its time.
func TestHostileServer(t *testing.T) {
	for name, reply := range map[string][]byte{
		"nothing":      nil,
		"short":        {0x80, 0, 0, 4, 1, 2, 3, 4},
		"endless":      {0x7f, 0xff, 0xff, 0xff},
		"empty record": {0x80, 0, 0, 0},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if _, err := c.Write(reply); err != nil {
					t.Error(err)
				}
				time.AfterFunc(3*time.Second, func() { c.Close() })
			}
		}()
		s := Server{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, Path: "/roots"}
		_, err = Find(context.Background(), []Server{s}, "web", "", Options{Version: 4, Timeout: time.Second})
		if err == nil || name == "nothing" && !errors.Is(err, ErrAway) {
			t.Errorf("%s: %v", name, err)
		}
		l.Close()
	}
}

func TestParseServer(t *testing.T) {
	for text, want := range map[string]Server{
		"nfs://builder/export/freejail":        {"builder", 2049, "/export/freejail"},
		"nfs://10.0.0.5:2050/roots":            {"10.0.0.5", 2050, "/roots"},
		"nfs://[fd00::5]/roots":                {"fd00::5", 2049, "/roots"},
		"nfs://[fd00::5]:2050/roots":           {"fd00::5", 2050, "/roots"},
		"nfs://builder.example:2049/a-b/c_d.e": {"builder.example", 2049, "/a-b/c_d.e"},
	} {
		got, err := ParseServer(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v %v", text, got, err)
		}
		if again, err := ParseServer(got.String()); err != nil || again != want {
			t.Errorf("%s is written %s, which is %+v %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "nfs", "nfs://", "nfs:///path", "nfs://host", "nfs://host/", "http://host/path",
		"nfs://host/a/../b", "nfs://host/a/",
		"nfs://user@host/path", "nfs://host/path?x=y", "nfs://host:0/path", "nfs://host:99999/path", "nfs://ho st/path",
		"nfs://host/a%20b", "nfs://host/a%0ab",
		"nfs://host,soft/path", "nfs://-o%20x/path"} {
		if s, err := ParseServer(text); err == nil {
			t.Errorf("%q was taken for %+v", text, s)
		}
	}
}

func FuzzReply(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := checkReply(b, 1)
		if err != nil {
			return
		}
		if r.uint32(); len(r.bytes(64)) > 64 {
			t.Error("a field is over its limit")
		}
	})
}
