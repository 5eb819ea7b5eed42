package registry

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/testoci"
)

// tool runs another program, or skips the test where it is not to be had.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	needTool(t, name)
	cmd := exec.CommandContext(t.Context(), name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

func needTool(t *testing.T, name string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("other tools are for Linux")
	}
	if _, err := exec.LookPath(name); err != nil {
		t.Skip(name + " is not here: make interop")
	}
}

// dockerRegistry runs Debian's, on this host alone, without TLS.
func dockerRegistry(t *testing.T) (host string) {
	t.Helper()
	needTool(t, "docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	host = l.Addr().String()
	check(t, l.Close())
	dir := t.TempDir()
	conf := filepath.Join(dir, "config.yml")
	check(t, os.WriteFile(conf, fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage:\n  filesystem: "+
		"{rootdirectory: %s}\n  delete: {enabled: true}\nhttp: {addr: %q}\n", dir, host), 0o600))
	cmd := exec.Command("docker-registry", "serve", conf)
	check(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for {
		resp, err := http.Get("http://" + host + "/v2/")
		if err == nil {
			check(t, resp.Body.Close())
			return host
		}
		if t.Context().Err() != nil || cmd.ProcessState != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// tarFiles are the digests of the files of a tar archive, by absolute path.
func tarFiles(t *testing.T, r io.Reader) map[string]digest.Digest {
	t.Helper()
	out := map[string]digest.Digest{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		check(t, err)
		if h.Typeflag == tar.TypeReg {
			d, err := digest.FromReader(tr)
			check(t, err)
			out["/"+strings.TrimPrefix(h.Name, "./")] = d
		}
	}
}

// Skopeo and this package move an image between all kinds of places, both with
// Debian's registry and ours, in both directions.
func TestInteropSkopeoAndRegistries(t *testing.T) {
	needTool(t, "skopeo")
	ours := serve(t, ServerOptions{}, nil)
	theirs := dockerRegistry(t)
	c := client(t, ours, Host{Name: theirs, PlainHTTP: true})
	dir, img := someImage(t)
	want := contentOfLayout(t, dir)
	plainStore := newStore(t)
	putImage(t, plainStore, "web", host, layer(t, "a", 5000), layer(t, "b", 5000))
	forDocker := layoutOf(t, plainStore, "web") // whose types know no zstd
	skopeo := func(args ...string) {
		t.Helper()
		tool(t, "skopeo", append([]string{"--insecure-policy", "copy", "--src-tls-verify=false",
			"--dest-tls-verify=false"}, args...)...)
	}
	for _, at := range []string{ours.host, theirs} {
		tmp := t.TempDir()
		// Ours pushes, skopeo pulls; skopeo pushes, ours pulls.
		_, err := c.Copy(ctx, loc(t, "oci:"+dir), loc(t, at+"/from/ours:1"), CopyOptions{})
		check(t, err)
		skopeo("docker://"+at+"/from/ours:1", "oci:"+tmp+"/one:web")
		if got := contentOfLayout(t, tmp+"/one"); !maps.Equal(got, want) {
			t.Errorf("%s: skopeo got the files %v, want %v", at, got, want)
		}
		skopeo("oci:"+dir+":web", "docker://"+at+"/from/skopeo:1")
		s := newStore(t)
		got, err := c.Pull(ctx, s, ref(t, at+"/from/skopeo:1"), PullOptions{})
		if err != nil || got.Digest != img.Digest || !maps.Equal(contentOf(t, s, got.Name), want) {
			t.Errorf("%s: got %+v, %v", at, got, err)
		}
		// Docker's manifest types, as skopeo writes them.
		skopeo("--format", "v2s2", "oci:"+forDocker+":web", "docker://"+at+"/from/docker:1")
		s = newStore(t)
		got, err = c.Pull(ctx, s, ref(t, at+"/from/docker:1"), PullOptions{})
		if err != nil || !maps.Equal(contentOf(t, s, got.Name), contentOfLayout(t, forDocker)) {
			t.Errorf("%s: docker's manifest: got %+v, %v", at, got, err)
		}
		done, err := c.Copy(ctx, loc(t, at+"/from/docker:1"), loc(t, "oci-archive:"+tmp+"/d.tar:d"), CopyOptions{})
		check(t, err)
		if copied, err := newStore(t).Import(ctx, tmp+"/d.tar", "d", nil); err != nil || copied.Digest != got.Digest ||
			done.Digest != got.Digest {
			t.Errorf("%s: the copy is %+v, %v, want %s", at, copied, err, got.Digest)
		}
		if text := tool(t, "skopeo", "list-tags", "--tls-verify=false", "docker://"+at+"/from/ours"); !strings.Contains(
			text, `"1"`) {
			t.Errorf("%s: the tags are %s", at, text)
		}
		tool(t, "skopeo", "delete", "--tls-verify=false", "docker://"+at+"/from/ours:1")
		if _, err := c.Pull(ctx, newStore(t), ref(t, at+"/from/ours:1"), PullOptions{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: after its deletion: %v", at, err)
		}
	}
	// From one registry to the other, and skopeo reads a repository's directory.
	_, err := c.Copy(ctx, loc(t, theirs+"/from/skopeo:1"), loc(t, ours.host+"/moved/web:2"), CopyOptions{})
	check(t, err)
	skopeo("docker://"+ours.host+"/moved/web:2", "docker://"+theirs+"/moved/back:3")
	skopeo("oci:"+ours.dir+"/moved+web:2", "oci:"+t.TempDir()+"/x:x")
}

// Of layers in zstd:chunked that skopeo has made the host fetches what differs, also from Debian's registry; those that
// this project makes are skopeo's and podman's to read.
func TestInteropChunked(t *testing.T) {
	needTool(t, "skopeo")
	needTool(t, "podman")
	m := &meter{}
	ours := serve(t, ServerOptions{}, m.wrap)
	theirs := dockerRegistry(t)
	c := client(t, ours, Host{Name: theirs, PlainHTTP: true})
	for v := 1; v < 3; v++ {
		pushChunked(t, ours, fmt.Sprintf("made/web:%d", v), files(v), false, nil)
		plain := newStore(t)
		putImage(t, plain, "web", host, testoci.Tar(t, files(v)...))
		dir := layoutOf(t, plain, "web")
		for _, at := range []string{ours.host, theirs} {
			tool(t, "skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", "--dest-compress-format",
				"zstd:chunked", "oci:"+dir+":web", fmt.Sprintf("docker://%s/theirs/web:%d", at, v))
		}
	}
	for _, at := range []string{ours.host, theirs} {
		s := newStore(t)
		pulled(t, s, c, at+"/theirs/web:1", PullOptions{})
		if last, told := pulled(t, s, c, at+"/theirs/web:2", PullOptions{}); last.Reused < last.Size/2 || len(told) > 0 {
			t.Errorf("%s: told were %+v, %v", at, last, told)
		}
	}
	dir := t.TempDir()
	podman := func(args ...string) string {
		return tool(t, "podman", append([]string{"--root", filepath.Join(dir, "root"), "--runroot",
			filepath.Join(dir, "run"), "--storage-driver", "vfs"}, args...)...)
	}
	podman("pull", "-q", "--tls-verify=false", ours.host+"/made/web:1")
	saved := filepath.Join(dir, "saved.tar")
	podman("save", "-q", "--format", "oci-archive", "-o", saved, ours.host+"/made/web:1")
	s := newStore(t)
	_, err := s.Import(ctx, saved, "saved", nil)
	check(t, err)
	pulled(t, s, c, ours.host+"/made/web:1", PullOptions{})
	if got := contentOf(t, s, "saved"); !maps.Equal(got, contentOf(t, s, ours.host+"/made/web:1")) || len(got) != 200 {
		t.Errorf("podman has %d files, or others", len(got))
	}
}

func contentOfLayout(t *testing.T, dir string) map[string]digest.Digest {
	t.Helper()
	s := newStore(t)
	_, err := s.Import(ctx, dir, "x", nil)
	check(t, err)
	return contentOf(t, s, "x")
}

// A whole index goes through skopeo and both registries.
func TestInteropIndex(t *testing.T) {
	needTool(t, "skopeo")
	ours := serve(t, ServerOptions{}, nil)
	theirs := dockerRegistry(t)
	c := client(t, ours, Host{Name: theirs, PlainHTTP: true})
	s := newStore(t)
	a := putImage(t, s, "a", ocispec.Platform{OS: "freebsd", Architecture: "amd64", OSVersion: "14.2"},
		layer(t, "a", 1000))
	b := putImage(t, s, "b", ocispec.Platform{OS: "freebsd", Architecture: "arm64", OSVersion: "14.2"},
		layer(t, "b", 1000))
	dir := indexOf(t, s, "multi", a, b)
	_, err := c.Copy(ctx, loc(t, "oci:"+dir), loc(t, theirs+"/multi:1"), CopyOptions{All: true})
	check(t, err)
	tool(t, "skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", "--src-tls-verify=false",
		"--dest-tls-verify=false", "docker://"+theirs+"/multi:1", "docker://"+ours.host+"/multi:1")
	tool(t, "skopeo", "--insecure-policy", "--override-os", "freebsd", "--override-arch", "arm64", "copy",
		"--src-tls-verify=false", "docker://"+ours.host+"/multi:1", "oci:"+t.TempDir()+"/x:x")
	arm := []ocispec.Platform{{OS: "freebsd", Architecture: "arm64"}}
	got, err := c.Pull(ctx, newStore(t), ref(t, ours.host+"/multi:1"),
		PullOptions{FetchOptions: layout.FetchOptions{Wanted: arm}})
	if err != nil || got.Digest != b.Digest {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Podman and buildah pull from our registry and push to it.
func TestInteropPodmanAndBuildah(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("podman and buildah need root here")
	}
	needTool(t, "podman")
	needTool(t, "buildah")
	ours := serve(t, ServerOptions{}, nil)
	c := client(t, ours)
	dir, _ := someImage(t)
	want := contentOfLayout(t, dir)
	_, err := c.Copy(ctx, loc(t, "oci:"+dir), loc(t, ours.host+"/web:1"), CopyOptions{})
	check(t, err)
	tmp := t.TempDir()
	storage := []string{"--root", tmp + "/root", "--runroot", tmp + "/run", "--storage-driver", "vfs"}
	podman := func(args ...string) string { t.Helper(); return tool(t, "podman", append(storage, args...)...) }
	buildah := func(args ...string) string { t.Helper(); return tool(t, "buildah", append(storage, args...)...) }

	podman("pull", "-q", "--tls-verify=false", ours.host+"/web:1")
	id := strings.TrimSpace(podman("create", ours.host+"/web:1", "/x"))
	podman("export", "-o", tmp+"/x.tar", id)
	f, err := os.Open(tmp + "/x.tar")
	check(t, err)
	got := tarFiles(t, f)
	check(t, f.Close())
	if got = subset(got, want); !maps.Equal(got, want) {
		t.Errorf("podman has the files %v, want %v", got, want)
	}
	podman("push", "-q", "--tls-verify=false", ours.host+"/web:1", ours.host+"/podman/web:2")
	check(t, os.WriteFile(tmp+"/more", []byte("by buildah"), 0o644))
	from := strings.TrimSpace(buildah("from", "--tls-verify=false", ours.host+"/web:1"))
	buildah("copy", "-q", from, tmp+"/more", "/more")
	buildah("commit", "-q", "--tls-verify=false", from, "docker://"+ours.host+"/buildah/web:3")
	want3 := maps.Clone(want)
	want3["/more"] = digest.FromString("by buildah")
	for name, files := range map[string]map[string]digest.Digest{"podman/web:2": want, "buildah/web:3": want3} {
		s := newStore(t)
		img, err := c.Pull(ctx, s, ref(t, ours.host+"/"+name), PullOptions{})
		check(t, err)
		if got := contentOf(t, s, img.Name); !maps.Equal(got, files) {
			t.Errorf("%s has the files %v, want %v", name, got, files)
		}
	}
}

// subset leaves out what podman adds to a container, such as /etc/hosts.
func subset(got, want map[string]digest.Digest) map[string]digest.Digest {
	out := map[string]digest.Digest{}
	for name, d := range got {
		if _, ok := want[name]; ok {
			out[name] = d
		}
	}
	return out
}
