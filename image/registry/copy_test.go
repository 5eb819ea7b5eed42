package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
)

// An image goes from place to place, and is the same everywhere.
func TestCopyEverywhere(t *testing.T) {
	r := serve(t, ServerOptions{}, nil)
	c := client(t, r)
	dir, img := someImage(t)
	tmp := t.TempDir()
	road := []string{"oci:" + dir, r.host + "/a/b/c:1", "oci-archive:" + tmp + "/x.tar:web", r.host + "/other", "oci:" +
		tmp + "/l:web:2",
		r.host + "/other:3", "store:" + tmp + "/store:r.example/web:1", "oci-archive:" + tmp + "/y.tar"}
	for i := range len(road) - 1 {
		done, err := c.Copy(ctx, loc(t, road[i]), loc(t, road[i+1]), CopyOptions{})
		if err != nil || done.Digest != img.Digest {
			t.Fatalf("%s to %s: %+v, %v", road[i], road[i+1], done, err)
		}
	}
	s := newStore(t)
	last, err := s.Import(ctx, tmp+"/y.tar", "", nil)
	check(t, err)
	if last.Digest != img.Digest || last.Name != "r.example/web:1" {
		t.Errorf("in the end it is %s %s, want %s", last.Name, last.Digest, img.Digest)
	}
	files := contentOf(t, s, last.Name)
	if len(files) != 3 {
		t.Errorf("it has the files %v", files)
	}
	first := newStore(t)
	_, err = first.Import(ctx, dir, "web", nil)
	check(t, err)
	if !maps.Equal(files, contentOf(t, first, "web")) {
		t.Error("its files have changed on the way")
	}
}

func TestPushSkipsAndMounts(t *testing.T) {
	r, img := pushed(t, ServerOptions{}, nil)
	c := client(t, r)
	if n := len(r.requests("PUT /v2/team/web/blobs/uploads/")); n != 4 {
		t.Errorf("%d blobs were pushed, want 3 layers and the config", n)
	}
	_, err := c.Copy(ctx, loc(t, r.host+"/team/web:1"), loc(t, r.host+"/prod/web:1"), CopyOptions{})
	check(t, err)
	if n := r.requests("PUT /v2/prod/web/blobs/uploads/"); len(n) > 0 {
		t.Errorf("blobs were pushed that could be mounted: %v", n)
	}
	before := len(r.requests("POST "))
	_, err = c.Copy(ctx, loc(t, r.host+"/team/web:1"), loc(t, r.host+"/prod/web:2"), CopyOptions{})
	check(t, err)
	if n := len(r.requests("POST ")); n != before {
		t.Errorf("%d uploads began though all was there", n-before)
	}
	got, err := c.Pull(ctx, newStore(t), ref(t, r.host+"/prod/web:2"), PullOptions{})
	if err != nil || got.Digest != img.Digest {
		t.Errorf("got %+v, %v", got, err)
	}
}

// What an index says of an image's manifest is its digest; a wrong size is of no account.
func TestIndexWithAWrongSize(t *testing.T) {
	var list []ocispec.Descriptor
	r := serve(t, ServerOptions{}, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path != "/v2/multi/manifests/2" {
				h.ServeHTTP(w, q)
				return
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
				Manifests: list}
			if err := json.NewEncoder(w).Encode(idx); err != nil {
				t.Error(err)
			}
		})
	})
	c, s := client(t, r), newStore(t)
	img := putImage(t, s, "one", host, layer(t, "own", 1000))
	dir := indexOf(t, s, "multi", img)
	done, err := c.Copy(ctx, loc(t, "oci:"+dir), loc(t, r.host+"/multi:1"), CopyOptions{})
	check(t, err)
	list = []ocispec.Descriptor{{MediaType: done.MediaType, Digest: done.Digest, Size: 7, Platform: &host}}
	got, err := c.Pull(ctx, newStore(t), ref(t, r.host+"/multi:2"), PullOptions{})
	if err != nil || got.Digest != img.Digest {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestIndexes(t *testing.T) {
	r := serve(t, ServerOptions{}, nil)
	c := client(t, r)
	s := newStore(t)
	fb := func(v string) ocispec.Platform {
		return ocispec.Platform{OS: "freebsd", Architecture: "arm64", OSVersion: v}
	}
	var list []*image.Image
	for i, p := range []ocispec.Platform{host, fb("14.1"), fb("15.0"), fb("14.3-RELEASE"),
		{OS: "freebsd", Architecture: "arm64", Variant: "v9", OSVersion: "14.0"}} {
		list = append(list, putImage(t, s, fmt.Sprintf("i%d", i), p, layer(t, "common", 1000),
			layer(t, fmt.Sprint("own", i), 1000)))
	}
	dir := indexOf(t, s, "multi", list...)
	_, err := c.Copy(ctx, loc(t, "oci:"+dir), loc(t, r.host+"/multi:1"), CopyOptions{All: true})
	check(t, err)
	for want, p := range map[int][]ocispec.Platform{0: nil, 1: {fb("14.2")}, 2: {fb("15.1-RELEASE-p3")},
		3: {fb("14.10")},
		4: {{OS: "freebsd", Architecture: "arm64", Variant: "v9", OSVersion: "14.0"}}} {
		got, err := c.Pull(ctx, newStore(t), ref(t, r.host+"/multi:1"),
			PullOptions{FetchOptions: layout.FetchOptions{Wanted: p}})
		if err != nil || got.Digest != list[want].Digest {
			t.Errorf("for %v: got %+v, %v", p, got, err)
		}
	}
	_, err = c.Pull(ctx, newStore(t), ref(t, r.host+"/multi:1"),
		PullOptions{FetchOptions: layout.FetchOptions{Wanted: []ocispec.Platform{fb("13.5")}}})
	wantError(t, err, "no image for freebsd/arm64 13.5", "freebsd/arm64 14.1", "freebsd/arm64/v9 14.0")

	// All of it comes back as it was; a part of it is one image.
	out := filepath.Join(t.TempDir(), "all")
	done, err := c.Copy(ctx, loc(t, r.host+"/multi:1"), loc(t, "oci:"+out+":multi"), CopyOptions{All: true})
	if err != nil || done.MediaType != ocispec.MediaTypeImageIndex {
		t.Fatalf("got %+v, %v", done, err)
	}
	done, err = c.Copy(ctx, loc(t, "oci:"+out+":multi"), loc(t, r.host+"/one"), CopyOptions{Platform: fb("14.2")})
	if err != nil || done.Digest != list[1].Digest {
		t.Errorf("got %+v, %v", done, err)
	}
	_, err = c.Copy(ctx, loc(t, "oci:"+out+":multi"), loc(t, "store:"+t.TempDir()), CopyOptions{All: true})
	wantError(t, err, "one image of an index")
	// One that stands alone is no other's either.
	file := filepath.Join(t.TempDir(), "x.tar")
	_, err = c.Copy(ctx, loc(t, r.host+"/one:latest"), loc(t, "oci-archive:"+file),
		CopyOptions{Platform: ocispec.Platform{OS: "linux", Architecture: "arm64"}})
	wantError(t, err, "wanted is linux/arm64")
	if _, err := os.Lstat(file); err == nil {
		t.Error("it was written")
	}
}

func TestLocations(t *testing.T) {
	for text, want := range map[string]string{
		"oci:":                "want oci:PATH",
		"oci-archive::name":   "want oci-archive:PATH",
		"web":                 "or oci:DIR",
		"docker://r.example/": "not a valid repository name",
	} {
		_, err := ParseLocation(text)
		wantError(t, err, want)
	}
	l, err := ParseLocation("oci-archive:/a/b.tar:r.example:5000/x:1@" + someDigest)
	if err != nil || l.Path != "/a/b.tar" || l.Name != "r.example:5000/x:1@"+someDigest ||
		!strings.HasPrefix(l.String(), "oci-archive:/a/b.tar:r.") {
		t.Errorf("got %+v, %v", l, err)
	}
}

func TestCopyRefusals(t *testing.T) {
	r, _ := pushed(t, ServerOptions{}, nil)
	c := client(t, r)
	dir, _ := someImage(t)
	at := t.TempDir()
	if err := errors.Join(os.Symlink(dir+"/index.json", at+"/link"), syscall.Mkfifo(at+"/fifo", 0o600),
		os.Symlink(dir+"/blobs", at+"/in")); err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][3]string{
		"no layout":    {"oci:" + t.TempDir(), r.host + "/x", "is not an OCI layout"},
		"another name": {"oci:" + dir + ":nothing", r.host + "/x", `"nothing"; there are: web`},
		"no tag":       {r.host + "/team/web:2", "oci:" + t.TempDir() + "/x", "no such image: " + r.host + "/team/web:2: not found"},
		"no digest": {r.host + "/team/web@" + someDigest, "oci:" + t.TempDir() + "/x",
			"no such image: " + r.host + "/team/web@" + someDigest + ": not found"},
		"no repository":        {r.host + "/nothing:2", "oci:" + t.TempDir() + "/x", "no such image"},
		"digest of another":    {"oci:" + dir, r.host + "/x@" + someDigest, "not " + someDigest},
		"a link":               {r.host + "/team/web:1", "oci-archive:" + at + "/link", "is a link to " + dir},
		"a FIFO":               {r.host + "/team/web:1", "oci-archive:" + at + "/fifo", "is a FIFO, not a regular file"},
		"a directory":          {r.host + "/team/web:1", "oci-archive:" + at, "is a directory, not a regular file"},
		"a file of the source": {"oci:" + dir, "oci-archive:" + dir + "/index.json", "lies in the source"},
		"by a link":            {"oci:" + dir, "oci-archive:" + at + "/in/x", "lies in the source"},
		"a directory's things": {"oci:" + dir, "oci:/etc", "choose another directory"},
	} {
		_, err := c.Copy(ctx, loc(t, pair[0]), loc(t, pair[1]), CopyOptions{})
		if err == nil || !strings.Contains(err.Error(), pair[2]) {
			t.Errorf("%s: got %v, want %q", name, err, pair[2])
		}
	}
}

// A list of referrers has an end, also where its pages are empty.
func TestReferrersAreBounded(t *testing.T) {
	pages := 0
	r, _ := pushed(t, ServerOptions{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/referrers/") {
				next.ServeHTTP(w, r)
				return
			}
			if pages++; pages > 1000 {
				http.Error(w, "", http.StatusTeapot)
				return
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			w.Header().Set("Link", fmt.Sprintf(`<%s?page=%d>; rel="next"`, r.URL.Path, pages))
			fmt.Fprint(w, `{"schemaVersion":2,"manifests":[]}`)
		})
	})
	_, err := client(t, r).Copy(ctx, loc(t, r.host+"/team/web:1"), loc(t, "oci:"+t.TempDir()+"/x"),
		CopyOptions{Referrers: true})
	wantError(t, err, "referrer listing exceeded 100 pages")
}
