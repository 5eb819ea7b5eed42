package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/bcrypt"
)

// asker sends requests as they are, without a client's care.
type asker struct {
	t *testing.T
	h http.Handler
}

type header map[string]string

func (a *asker) do(method, path string, h header, body []byte, want int) *httptest.ResponseRecorder {
	a.t.Helper()
	req := httptest.NewRequest(method, "http://r"+path, bytes.NewReader(body))
	for k, v := range h {
		req.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	a.h.ServeHTTP(w, req)
	if w.Code != want {
		a.t.Fatalf("%s %s: status %d, want %d: %s", method, path, w.Code, want, w.Body)
	}
	if w.Code >= 400 && w.Code != 416 && method != http.MethodHead {
		var e struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || len(e.Errors) != 1 || e.Errors[0].Code == "" {
			a.t.Errorf("%s %s: the error is %q", method, path, w.Body)
		}
	}
	return w
}

func newServer(t *testing.T, dir string, o ServerOptions) (*asker, *Server) {
	t.Helper()
	s, err := NewServer(dir, o)
	check(t, err)
	t.Cleanup(func() { _ = s.Close() }) // a test may have closed it
	return &asker{t, s}, s
}

func (a *asker) blob(repo string, content []byte) ocispec.Descriptor {
	a.t.Helper()
	d := digest.FromBytes(content)
	a.do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), nil, content, 201)
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(content))}
}

func (a *asker) manifest(repo, version string, subject *ocispec.Descriptor, artifactType string,
	blobs ...ocispec.Descriptor) ocispec.Descriptor {
	a.t.Helper()
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: blobs[0], Layers: blobs[1:],
		Subject: subject, ArtifactType: artifactType,
		Annotations: map[string]string{"v": version}}
	m.SchemaVersion = 2
	b, err := json.Marshal(m)
	check(a.t, err)
	d := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if version == "" {
		version = d.Digest.String()
	}
	w := a.do("PUT", "/v2/"+repo+"/manifests/"+version, header{"Content-Type": m.MediaType}, b, 201)
	if subject != nil && w.Header().Get("OCI-Subject") != subject.Digest.String() {
		a.t.Errorf("the subject was not acknowledged: %v", w.Header())
	}
	return d
}

func TestServerUploads(t *testing.T) {
	a, s := newServer(t, t.TempDir(), ServerOptions{})
	content := bytes.Repeat([]byte("0123456789"), 100)
	d := digest.FromBytes(content)
	w := a.do("POST", "/v2/a/b/blobs/uploads/", nil, nil, 202)
	at := w.Header().Get("Location")
	a.do("PATCH", at, header{"Content-Range": "0-399", "Content-Type": "application/octet-stream"}, content[:400], 202)
	if w = a.do("GET", at, nil, nil, 204); w.Header().Get("Range") != "0-399" {
		t.Errorf("the range is %q", w.Header().Get("Range"))
	}
	if w = a.do("PATCH", at, header{"Content-Range": "500-599"}, content[500:600],
		416); w.Header().Get("Range") != "0-399" {
		t.Errorf("after a gap the range is %q", w.Header().Get("Range"))
	}
	a.do("PATCH", at, nil, content[400:600], 202)
	a.do("HEAD", "/v2/a/b/blobs/"+d.String(), nil, nil, 404)

	// The server is killed; the next one goes on with the upload.
	dir := s.dir
	check(t, s.Close())
	a, s = newServer(t, dir, ServerOptions{})
	a.do("PUT", at+"?digest="+d.String(), nil, content[600:], 201)
	a.do("PUT", at+"?digest="+d.String(), nil, nil, 404)
	w = a.do("HEAD", "/v2/a/b/blobs/"+d.String(), nil, nil, 200)
	if w.Header().Get("Content-Length") != "1000" || w.Header().Get("Docker-Content-Digest") != d.String() {
		t.Errorf("the blob's head is %v", w.Header())
	}
	w = a.do("GET", "/v2/a/b/blobs/"+d.String(), header{"Range": "bytes=990-"}, nil, 206)
	if w.Body.String() != "0123456789" || w.Header().Get("Content-Range") != "bytes 990-999/1000" {
		t.Errorf("a part is %q, %v", w.Body, w.Header())
	}
	a.do("GET", "/v2/a/b/blobs/"+d.String(), header{"Range": "bytes=2000-"}, nil, 416)

	// Wrong content is not kept; a mount needs no content.
	a.do("POST", "/v2/a/b/blobs/uploads/?digest="+someDigest, nil, content, 400)
	a.do("HEAD", "/v2/a/b/blobs/"+someDigest, nil, nil, 404)
	a.do("POST", "/v2/other/blobs/uploads/?mount="+d.String()+"&from=a/b", nil, nil, 201)
	a.do("POST", "/v2/other/blobs/uploads/?mount="+someDigest+"&from=a/b", nil, nil, 202)
	a.do("POST", "/v2/third/blobs/uploads/?mount="+d.String()+"&from=no/such", nil, nil, 202)
	if w = a.do("GET", "/v2/other/blobs/"+d.String(), nil, nil, 200); !bytes.Equal(w.Body.Bytes(), content) {
		t.Error("the mounted blob is another")
	}
	at = a.do("POST", "/v2/a/b/blobs/uploads/", nil, nil, 202).Header().Get("Location")
	a.do("DELETE", at, nil, nil, 204)
	a.do("GET", at, nil, nil, 404)
	if files, _ := filepath.Glob(filepath.Join(s.dir, "*", "tmp", "*")); len(files) != 2 {
		t.Errorf("files of uploads are left: %v", files) // but for the two mounts that became uploads
	}
}

func TestServerManifests(t *testing.T) {
	a, _ := newServer(t, t.TempDir(), ServerOptions{})
	config, l := a.blob("web", []byte("{}")), a.blob("web", []byte("layer"))
	first := a.manifest("web", "1", nil, "", config, l)
	w := a.do("GET", "/v2/web/manifests/1", nil, nil, 200)
	if digest.FromBytes(w.Body.Bytes()) != first.Digest || w.Header().Get("Content-Type") != first.MediaType {
		t.Errorf("got %v %q", w.Header(), w.Body)
	}
	if w = a.do("HEAD", "/v2/web/manifests/1", nil, nil, 200); w.Header().Get(
		"Docker-Content-Digest") != first.Digest.String() || w.Header().Get("Content-Length") == "" {
		t.Errorf("got %v", w.Header())
	}
	second := a.manifest("web", "2", nil, "", config, l)
	third := a.manifest("web", "", nil, "", config)
	a.do("PUT", "/v2/web/manifests/1", header{"Content-Type": first.MediaType}, a.do("GET", "/v2/web/manifests/2", nil,
		nil, 200).Body.Bytes(), 201)
	a.do("GET", "/v2/web/manifests/"+first.Digest.String(), nil, nil, 200) // lost its tag, but is there
	if w = a.do("GET", "/v2/web/tags/list", nil, nil, 200); strings.TrimSpace(
		w.Body.String()) != `{"name":"web","tags":["1","2"]}` {
		t.Errorf("the tags are %s", w.Body)
	}
	for i := range 5 {
		a.manifest("web", fmt.Sprintf("t%d", i), nil, "", config)
	}
	w = a.do("GET", "/v2/web/tags/list?n=3&last=2", nil, nil, 200)
	if !strings.Contains(w.Body.String(), `["t0","t1","t2"]`) || !strings.Contains(w.Header().Get("Link"), "last=t2") {
		t.Errorf("a page is %s, %v", w.Body, w.Header())
	}
	if w = a.do("GET", "/v2/web/tags/list?n=0", nil, nil, 200); !strings.Contains(w.Body.String(), `"tags":[]`) {
		t.Errorf("no tags are %s", w.Body)
	}
	a.do("GET", "/v2/web/tags/list?n=-1", nil, nil, 400)

	a.do("DELETE", "/v2/web/blobs/"+l.Digest.String(), nil, nil, 405) // a manifest needs it
	a.do("DELETE", "/v2/web/manifests/1", nil, nil, 202)
	a.do("GET", "/v2/web/manifests/1", nil, nil, 404)
	a.do("GET", "/v2/web/manifests/"+second.Digest.String(), nil, nil, 200)
	a.do("DELETE", "/v2/web/manifests/"+second.Digest.String(), nil, nil, 202)
	a.do("GET", "/v2/web/manifests/2", nil, nil, 404)
	a.do("GET", "/v2/web/manifests/"+third.Digest.String(), nil, nil, 200)
	a.do("DELETE", "/v2/web/manifests/"+first.Digest.String(), nil, nil, 202)
	a.do("DELETE", "/v2/web/blobs/"+l.Digest.String(), nil, nil, 202)
	a.do("GET", "/v2/web/blobs/"+l.Digest.String(), nil, nil, 404)
	if w = a.do("GET", "/v2/_catalog", nil, nil, 200); strings.TrimSpace(
		w.Body.String()) != `{"repositories":["web"]}` {
		t.Errorf("the repositories are %s", w.Body)
	}
}

func TestServerReferrers(t *testing.T) {
	a, _ := newServer(t, t.TempDir(), ServerOptions{})
	config := a.blob("web", []byte("{}"))
	img := a.manifest("web", "1", nil, "", config)
	sbom := a.manifest("web", "", &img, "example/sbom", config)
	a.manifest("web", "x", &img, "example/other", config)
	later := digest.FromString("is not there yet")
	a.manifest("web", "", &ocispec.Descriptor{MediaType: img.MediaType, Digest: later, Size: 1}, "", config)
	list := func(d digest.Digest, query string) (out ocispec.Index, w *httptest.ResponseRecorder) {
		w = a.do("GET", "/v2/web/referrers/"+d.String()+query, nil, nil, 200)
		check(t, json.Unmarshal(w.Body.Bytes(), &out))
		if w.Header().Get("Content-Type") != ocispec.MediaTypeImageIndex || out.Manifests == nil {
			t.Errorf("got %v, %s", w.Header(), w.Body)
		}
		return out, w
	}
	if all, w := list(img.Digest, ""); len(all.Manifests) != 2 || w.Header().Get("OCI-Filters-Applied") != "" {
		t.Errorf("got %+v", all)
	}
	one, w := list(img.Digest, "?artifactType=example/sbom")
	if len(one.Manifests) != 1 || one.Manifests[0].Digest != sbom.Digest ||
		one.Manifests[0].ArtifactType != "example/sbom" || w.Header().Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("got %+v, %v", one, w.Header())
	}
	if l, _ := list(later, ""); len(l.Manifests) != 1 || l.Manifests[0].ArtifactType != config.MediaType {
		t.Errorf("got %+v", l)
	}
	list(digest.FromString("nothing"), "")
	a.do("GET", "/v2/nothing/referrers/"+someDigest, nil, nil, 200)
	a.do("GET", "/v2/web/referrers/sha256:x", nil, nil, 400)
	a.do("DELETE", "/v2/web/manifests/"+sbom.Digest.String(), nil, nil, 202)
	if l, _ := list(img.Digest, ""); len(l.Manifests) != 1 {
		t.Errorf("got %+v", l)
	}
}

// What a client sends never reaches beyond its repository, nor is it trusted.
func TestServerRefusals(t *testing.T) {
	root := t.TempDir()
	secret := filepath.Join(root, "secret")
	check(t, os.WriteFile(secret, []byte("sesame"), 0o600))
	a, s := newServer(t, filepath.Join(root, "reg"), ServerOptions{MaxBlob: 1000, Uploads: 3})
	config := a.blob("web", []byte("{}"))
	for _, name := range []string{"..", "../secret", "a/../../secret", "a/..", "A", "a//b", "a/./b", "a+b", "a%2fb",
		".hidden", "lock/", "a\x00b", strings.Repeat("a", 300)} {
		req := httptest.NewRequest("POST", "http://r/v2/", nil)
		req.URL.Path = "/v2/" + name + "/blobs/uploads/"
		w := httptest.NewRecorder()
		s.ServeHTTP(w, req)
		if w.Code != 400 && w.Code != 404 && w.Code != 405 {
			t.Errorf("%q: status %d", name, w.Code)
		}
	}
	for _, c := range []struct {
		method, path string
		h            header
		body         string
		want         int
	}{
		{"GET", "/", nil, "", 404},
		{"GET", "/v2/web/blobs/sha256:../../../secret", nil, "", 404},
		{"GET", "/v2/web/blobs/sha512:" + strings.Repeat("a", 128), nil, "", 400},
		{"GET", "/v2/web/manifests/..", nil, "", 404},
		{"GET", "/v2/web/manifests/" + config.Digest.String(), nil, "", 404}, // a blob is no manifest
		{"GET", "/v2/web/blobs/uploads/../../../secret", nil, "", 404},
		{"GET", "/v2/web/blobs/uploads/up-AAAAAAAAAAAAAAAAAAAAAAAAAA", nil, "", 404},
		{"GET", "/v2/nothing/tags/list", nil, "", 404},
		{"PUT", "/v2/web/manifests/1", header{"Content-Type": "text/html"}, "<html>", 400},
		{"PUT", "/v2/web/manifests/1", header{"Content-Type": ocispec.MediaTypeImageManifest}, "{}", 400},
		{"PUT", "/v2/web/manifests/1", header{"Content-Type": ocispec.MediaTypeImageManifest}, `{"schemaVersion":2}`,
			400},
		{"PUT", "/v2/web/manifests/1", header{"Content-Type": ocispec.MediaTypeImageManifest},
			`{"schemaVersion":2,"mediaType":"x","config":{}}`, 400},
		{"PUT", "/v2/web/manifests/1", header{"Content-Type": ocispec.MediaTypeImageManifest},
			`{"schemaVersion":2,"config":{"digest":"../../x","size":1}}`, 400},
		{"PUT", "/v2/web/manifests/1", header{"Content-Type": ocispec.MediaTypeImageManifest},
			`{"schemaVersion":2,"config":{"digest":"` + someDigest + `","size":1}}`, 404},
		{"PUT", "/v2/web/manifests/1", header{"Content-Type": ocispec.MediaTypeImageManifest},
			`{"schemaVersion":2,"config":{"digest":"` + config.Digest.String() + `","size":99}}`, 400},
		{"PUT", "/v2/web/manifests/" + someDigest, header{"Content-Type": ocispec.MediaTypeImageManifest},
			`{"schemaVersion":2,"config":{"digest":"` + config.Digest.String() + `","size":2}}`, 400},
		{"PUT", "/v2/web/manifests/1", header{"Content-Type": ocispec.MediaTypeImageManifest},
			strings.Repeat(" ", maxManifest+1), 413},
		{"PUT", "/v2/web/manifests/1:2", header{"Content-Type": ocispec.MediaTypeImageManifest}, "{}", 404},
		{"POST", "/v2/web/blobs/uploads/?digest=" + someDigest, nil, strings.Repeat("x", 1001), 413},
		{"POST", "/v2/web/manifests/1", nil, "", 405},
	} {
		a.do(c.method, c.path, c.h, []byte(c.body), c.want)
	}
	// A layout that someone else has put there leads nowhere.
	evil := filepath.Join(s.dir, "evil")
	check(t, os.MkdirAll(filepath.Join(evil, "blobs", "sha256"), 0o755))
	check(t, os.WriteFile(filepath.Join(evil, "index.json"), []byte(`{"schemaVersion":2,"manifests":[]}`), 0o644))
	d := digest.FromString("sesame")
	check(t, os.Symlink(secret, filepath.Join(evil, "blobs", "sha256", d.Encoded())))
	req := httptest.NewRequest("GET", "http://r/v2/evil/blobs/"+d.String(), nil)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, req)
	if w.Code == 200 || strings.Contains(w.Body.String(), "sesame") {
		t.Errorf("a link leads out: %d %s", w.Code, w.Body)
	}
	for range 3 {
		a.do("POST", "/v2/web/blobs/uploads/", nil, nil, 202)
	}
	a.do("POST", "/v2/web/blobs/uploads/", nil, nil, 429)
	if b, err := os.ReadFile(secret); err != nil || string(b) != "sesame" {
		t.Errorf("%q, %v", b, err)
	}
	if entries, _ := os.ReadDir(root); len(entries) != 2 {
		t.Errorf("there is more than there was: %v", entries)
	}
}

func TestServerSweeps(t *testing.T) {
	a, s := newServer(t, t.TempDir(), ServerOptions{Unused: time.Hour, Uploads: 2})
	used, loose, young := a.blob("web", []byte("{}")), a.blob("web", []byte("loose")), a.blob("web", []byte("young"))
	img := a.manifest("web", "1", nil, "", used)
	at := a.do("POST", "/v2/web/blobs/uploads/", nil, nil, 202).Header().Get("Location")
	old := time.Now().Add(-2 * time.Hour)
	for _, d := range []digest.Digest{used.Digest, loose.Digest, img.Digest} {
		check(t, os.Chtimes(filepath.Join(s.dir, "web", "blobs", "sha256", d.Encoded()), old, old))
	}
	check(t, os.Chtimes(filepath.Join(s.dir, "web", "tmp", filepath.Base(at)), old, old))
	check(t, s.sweep())
	a.do("GET", at, nil, nil, 404)
	a.do("HEAD", "/v2/web/blobs/"+loose.Digest.String(), nil, nil, 404)
	a.do("HEAD", "/v2/web/blobs/"+young.Digest.String(), nil, nil, 200)
	a.do("HEAD", "/v2/web/blobs/"+used.Digest.String(), nil, nil, 200)
	a.do("GET", "/v2/web/manifests/1", nil, nil, 200)
	for range 2 { // the one that was swept is not counted
		a.do("POST", "/v2/web/blobs/uploads/", nil, nil, 202)
	}
	if _, err := NewServer(s.dir, ServerOptions{}); err == nil || !strings.Contains(err.Error(), "another registry") {
		t.Errorf("a second server: %v", err)
	}
}

func TestServerUsers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "htpasswd")
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	check(t, err)
	check(t, os.WriteFile(file, []byte("# users\nann:"+string(hash)+"\n"), 0o600))
	u, err := ReadUsers(file)
	check(t, err)
	a, _ := newServer(t, t.TempDir(), ServerOptions{Users: u})
	if w := a.do("GET", "/v2/", nil, nil, 401); !strings.HasPrefix(w.Header().Get("WWW-Authenticate"), "Basic") {
		t.Errorf("got %v", w.Header())
	}
	for pair, want := range map[string]int{"ann:right": 200, "ann:wrong": 401, "bob:right": 401, "ann:": 401,
		":": 401} {
		name, password, _ := strings.Cut(pair, ":")
		for range 2 { // the second time is remembered
			req := httptest.NewRequest("GET", "http://r/v2/", nil)
			req.SetBasicAuth(name, password)
			w := httptest.NewRecorder()
			a.h.ServeHTTP(w, req)
			if w.Code != want {
				t.Errorf("%s: %d, want %d", pair, w.Code, want)
			}
		}
	}
	for text, want := range map[string]string{"": "no users", "ann": "line 1", "ann:{SHA}x": "htpasswd -B",
		"ann:plain": "bcrypt"} {
		check(t, os.WriteFile(file, []byte(text), 0o600))
		_, err := ReadUsers(file)
		wantError(t, err, want)
	}
	a, _ = newServer(t, t.TempDir(), ServerOptions{ReadOnly: true})
	a.do("POST", "/v2/web/blobs/uploads/", nil, nil, 405)
	a.do("GET", "/v2/", nil, nil, 200)
}

// A connection that breaks leaves what came, and the client goes on with that.
func TestServerBrokenUpload(t *testing.T) {
	r := serve(t, ServerOptions{}, nil)
	resp, err := http.Post(r.URL+"/v2/web/blobs/uploads/", "", nil)
	check(t, err)
	check(t, resp.Body.Close())
	at := r.URL + resp.Header.Get("Location")
	pr, pw := io.Pipe()
	req, err := http.NewRequest("PATCH", at, pr)
	check(t, err)
	go func() {
		_, _ = pw.Write([]byte("half of it"))
		time.Sleep(50 * time.Millisecond)
		_ = pw.CloseWithError(io.ErrUnexpectedEOF)
	}()
	if resp, err := http.DefaultClient.Do(req); err == nil {
		check(t, resp.Body.Close())
	}
	var got string
	for got != "0-9" { // the server may still be finding out
		resp, err = http.Get(at)
		check(t, err)
		check(t, resp.Body.Close())
		got = resp.Header.Get("Range")
		if resp.StatusCode != 204 && resp.StatusCode != 409 {
			t.Fatalf("got %s", resp.Status)
		}
	}
	content := "half of it, and the rest"
	req, err = http.NewRequest("PUT", at+"?digest="+digest.FromString(content).String(),
		strings.NewReader(content[10:]))
	check(t, err)
	resp, err = http.DefaultClient.Do(req)
	check(t, err)
	check(t, resp.Body.Close())
	if resp.StatusCode != 201 {
		t.Errorf("got %s", resp.Status)
	}
}
