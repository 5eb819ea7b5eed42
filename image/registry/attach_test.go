package registry

import (
	"bytes"
	"crypto/elliptic"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/sign"
)

// anyDocument wants those of some keys that say "about".
func anyDocument(keys ...*sign.PrivateKey) Wanted {
	w := Wanted{ArtifactType: document.Approval,
		About: func(_ digest.Digest, s sign.Signature) bool { return strings.HasPrefix(string(s.Payload), "about") }}
	for _, k := range keys {
		w.Keys = append(w.Keys, k.Public())
	}
	return w
}

func someDocument(t *testing.T, key *sign.PrivateKey, text string) sign.Signature {
	t.Helper()
	doc, err := key.SignDocument([]byte(text))
	check(t, err)
	return doc
}

func (r *registryHost) documents(t *testing.T, c *Client, img *image.Image, w Wanted) Documents {
	t.Helper()
	got, err := c.Documents(ctx, loc(t, r.host+"/team/web@"+img.Digest.String()),
		ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: img.Digest}, w)
	check(t, err)
	return got
}

// What is attached to an image goes along with it: to another registry, an archive, a store and
// out of one again.
func TestAttachedDocuments(t *testing.T) {
	r, img := pushed(t, ServerOptions{}, nil)
	other := serve(t, ServerOptions{}, nil)
	c := client(t, r, other)
	key, _, _ := keys(t, nil)
	stranger, _, _ := keys(t, nil)
	doc := someDocument(t, key, "about this")
	pinned := loc(t, r.host+"/team/web@"+img.Digest.String())
	wantError(t, c.Attach(ctx, loc(t, r.host+"/team/web:1"), doc, document.Approval), "the registry has")
	for range 2 {
		check(t, c.Attach(ctx, pinned, doc, document.Approval))
	}
	check(t, c.Attach(ctx, pinned, someDocument(t, stranger, "about that"), document.Approval))
	one := func(where string, got Documents, others int) {
		t.Helper()
		if len(got.List) != 1 || string(got.List[0].Payload) != "about this" || !key.Public().Signed(got.List[0]) ||
			got.Others != others {
			t.Errorf("%s: got %+v", where, got)
		}
	}
	one("attached", r.documents(t, c, img, anyDocument(key)), 1)
	if all := r.documents(t, c, img, anyDocument()); len(all.List) != 2 {
		t.Errorf("got %+v", all)
	}
	tmp := t.TempDir()
	name := r.host + "/team/web:1"
	for _, pair := range [][2]string{{name, other.host + "/team/web:1"},
		{other.host + "/team/web:1", "oci-archive:" + tmp + "/x.tar"}, {"oci-archive:" + tmp + "/x.tar", "store:" + tmp + "/s"},
		{"store:" + tmp + "/s", "store:" + tmp + "/s2"},
		{"store:" + tmp + "/s2", other.host + "/again/web:1"}, {other.host + "/again/web:1", other.host + "/team/web:1"}} {
		done, err := c.Copy(ctx, loc(t, pair[0]), loc(t, pair[1]), CopyOptions{})
		if err != nil || done.Attached != 2 || done.Digest != img.Digest {
			t.Fatalf("%v: %+v, %v", pair, done, err)
		}
	}
	one("copied", other.documents(t, c, img, anyDocument(key)), 1)
	done, err := c.Copy(ctx, loc(t, name), loc(t, "oci:"+tmp+"/unsigned"), CopyOptions{Unsigned: true})
	if err != nil || done.Attached != 0 {
		t.Errorf("got %+v, %v", done, err)
	}
	done, err = c.Copy(ctx, loc(t, name), loc(t, "oci:"+tmp+"/all"), CopyOptions{Referrers: true})
	if err != nil || done.Attached != 2 {
		t.Errorf("got %+v, %v", done, err)
	}

	// The store keeps them from a pull, where they are wanted, and from an import.
	s := newStore(t)
	got, err := c.Pull(ctx, s, pinned.Ref, PullOptions{Approvals: anyDocument(key)})
	check(t, err)
	list, err := s.Approvals(got.Digest)
	check(t, err)
	one("pulled", Documents{List: list}, 0)
	check(t, s.Remove(got.Name))
	_, err = s.GC(ctx)
	check(t, err)
	if list, err := s.Approvals(got.Digest); err != nil || len(list) > 0 {
		t.Errorf("of an image that is gone: %+v, %v", list, err)
	}
	got, err = s.Import(ctx, filepath.Join(tmp, "x.tar"), "", nil)
	check(t, err)
	if list, err := s.Approvals(got.Digest); err != nil || len(list) != 2 {
		t.Errorf("imported: %+v, %v", list, err)
	}
}

// flood attaches to an image what somebody who may push can: approvals by others, the real one of
// this image and of others again and again, and some that make the list long. Of the missing
// there is no document.
func flood(t *testing.T, r *registryHost, img *image.Image, real []sign.Signature, missing sign.Signature, n int) {
	t.Helper()
	stranger, _, _ := keys(t, nil)
	dir := filepath.Join(r.dir, "team+web")
	l, err := layout.Make(dir)
	check(t, err)
	defer func() { check(t, l.Close()) }()
	put := func(mediaType string, b []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		check(t, os.WriteFile(filepath.Join(dir, "blobs", "sha256", d.Digest.Encoded()), b, 0o644))
		return d
	}
	config := put(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	junk := someDocument(t, stranger, "about nothing")
	for _, doc := range real {
		put(document.Approval, doc.Payload)
	}
	real = append(real, missing)
	var list []ocispec.Descriptor
	for i := range n {
		doc := junk
		if i%2 == 0 {
			doc = real[i/2%len(real)]
		}
		m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			ArtifactType: document.Approval, Config: config, Layers: []ocispec.Descriptor{config},
			Subject: &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: img.Digest, Size: 1},
			Annotations: map[string]string{"n": fmt.Sprintf("%01500d", i),
				"org.freejail.document.digest":    digest.FromBytes(doc.Payload).String(),
				"org.freejail.document.signature": hex.EncodeToString(doc.Signature)}}
		if i%100 == 0 {
			m.Annotations["long"] = strings.Repeat("x", 1<<19)
		}
		b, err := json.Marshal(m)
		check(t, err)
		list = append(list, put(m.MediaType, b))
	}
	check(t, l.Update(func(idx *ocispec.Index) error {
		idx.Manifests = append(idx.Manifests, list...)
		return nil
	}))
}

// hasTime lifts the limit of time, which a slow host reaches before the other bounds.
func hasTime(t *testing.T) {
	before := documentsTime
	documentsTime = time.Hour
	t.Cleanup(func() { documentsTime = before })
}

// Thousands of documents that others attached hide none, and cost few requests.
func TestFloodOfDocuments(t *testing.T) {
	hasTime(t)
	var asked atomic.Int64
	r, img := pushed(t, ServerOptions{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			next.ServeHTTP(w, r)
		})
	})
	c := client(t, r)
	key, _, _ := keys(t, nil)
	pinned := loc(t, r.host+"/team/web@"+img.Digest.String())
	var real []sign.Signature
	for i := range 150 { // more than are kept, of other images: genuine, and stolen
		real = append(real, someDocument(t, key, fmt.Sprintf("another %d", i)))
	}
	missing := someDocument(t, key, "about what is not there")
	flood(t, r, img, real, missing, 3000)
	for _, doc := range append(real[:3:3], someDocument(t, key, "about this")) {
		check(t, c.Attach(ctx, pinned, doc, document.Approval))
	}
	asked.Store(0)
	got, err := c.Documents(ctx, pinned, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: img.Digest},
		anyDocument(key))
	wantError(t, err, "the document") // those of other repositories, which this has not
	found := 0
	for _, doc := range got.List {
		if string(doc.Payload) == "about this" {
			found++
		}
	}
	if found != 1 || len(got.List) > maxStrange+1 || got.Others < 1500 {
		t.Errorf("got %d of it among %d, %d others", found, len(got.List), got.Others)
	}
	// One for each document of the key, for each manifest that is listed without its annotations, and the pages.
	if n := asked.Load(); n > 151+1+30+10 {
		t.Errorf("%d requests", n)
	}
	if _, err := c.Copy(ctx, loc(t, r.host+"/team/web:1"), loc(t, "oci:"+t.TempDir()+"/x"), CopyOptions{}); err == nil ||
		!strings.Contains(err.Error(), "--no-signatures") {
		t.Errorf("a copy of them all: %v", err)
	}
}

// secondForm is the other signature that everybody can make of an ECDSA signature.
func secondForm(t *testing.T, doc sign.Signature) sign.Signature {
	t.Helper()
	var v struct{ R, S *big.Int }
	_, err := asn1.Unmarshal(doc.Signature, &v)
	check(t, err)
	v.S.Sub(elliptic.P256().Params().N, v.S)
	b, err := asn1.Marshal(v)
	check(t, err)
	return sign.Signature{Payload: doc.Payload, Signature: b}
}

// attachLast attaches a document that says "about it" behind all others, which lists have by their digests.
func (r *registryHost) attachLast(t *testing.T, c *Client, img *image.Image, key *sign.PrivateKey) {
	t.Helper()
	at := loc(t, r.host+"/team/web@"+img.Digest.String())
	src, name, err := c.source(ctx, at, CopyOptions{})
	check(t, err)
	to, err := src.resolve(ctx, name, nil)
	check(t, err)
	for {
		doc := someDocument(t, key, "about it")
		blobs, err := sign.Attachment(doc, document.Approval, to)
		check(t, err)
		if strings.HasPrefix(blobs[2].Descriptor.Digest.Encoded(), "ff") {
			check(t, c.Attach(ctx, at, doc, document.Approval))
			return
		}
	}
}

// last tells whether the document of attachLast was found.
func (d *Documents) last() bool {
	return slices.ContainsFunc(d.List, func(doc sign.Signature) bool { return string(doc.Payload) == "about it" })
}

// What the same key has signed of other images hides nothing, by whichever of its signatures; and where there is more
// of it than is fetched, that is told.
func TestDocumentsOfOtherImages(t *testing.T) {
	hasTime(t)
	r, img := pushed(t, ServerOptions{}, nil)
	c := client(t, r)
	key, _, _ := keys(t, nil)
	missing := someDocument(t, key, "another")
	genuine := func(from, to int) (out []sign.Signature) {
		for i := from; i < to; i++ {
			doc := someDocument(t, key, fmt.Sprintf("another %d", i))
			out = append(out, doc, secondForm(t, doc))
		}
		return out
	}
	search := func() (Documents, error) {
		return c.Documents(ctx, loc(t, r.host+"/team/web@"+img.Digest.String()),
			ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: img.Digest}, anyDocument(key))
	}
	r.attachLast(t, c, img, key)
	docs := genuine(0, maxFetched/2+20)
	flood(t, r, img, docs, missing, 2*len(docs))
	if got, err := search(); !got.last() || err != nil && strings.Contains(err.Error(), "may be missing") {
		t.Errorf("it is hidden: %d found, %d others, %v", len(got.List), got.Others, err)
	}
	docs = genuine(maxFetched/2+20, maxFetched+20)
	flood(t, r, img, docs, missing, 2*len(docs))
	_, err := search()
	wantError(t, err, "more than 1000 documents by one key refer to it, and some may be missing here")
}

// One key's documents about an image hide none of another's, and that one has too many is told.
func TestDocumentsOfAnotherKey(t *testing.T) {
	r, img := pushed(t, ServerOptions{}, nil)
	c := client(t, r)
	a, _, _ := keys(t, nil)
	b, _, _ := keys(t, nil)
	r.attachLast(t, c, img, b)
	var docs []sign.Signature
	for i := range maxDocuments + 10 {
		docs = append(docs, someDocument(t, a, fmt.Sprintf("about this %d", i)))
	}
	flood(t, r, img, docs, someDocument(t, a, "another"), 2*len(docs))
	got, err := c.Documents(ctx, loc(t, r.host+"/team/web@"+img.Digest.String()),
		ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: img.Digest}, anyDocument(a, b))
	if !got.last() || len(got.List) != maxDocuments+1 {
		t.Errorf("%d found, the other's among them: %v", len(got.List), got.last())
	}
	wantError(t, err, "more than 100 documents by one key are about it")
}

// What several have signed is had by each one's signature, in whatever order they are attached.
func TestDocumentsOfTheSamePayload(t *testing.T) {
	r, img := pushed(t, ServerOptions{}, nil)
	c := client(t, r)
	a, _, _ := keys(t, nil)
	b, _, _ := keys(t, nil)
	pinned := loc(t, r.host+"/team/web@"+img.Digest.String())
	for _, key := range []*sign.PrivateKey{a, b} {
		check(t, c.Attach(ctx, pinned, someDocument(t, key, "about this"), document.Approval))
	}
	for want, w := range map[int]Wanted{1: anyDocument(b), 2: anyDocument(a, b)} {
		if got := r.documents(t, c, img, w); len(got.List) != want {
			t.Errorf("%d of %d", len(got.List), want)
		}
	}
	if got := r.documents(t, c, img, anyDocument()); len(got.List) != 2 {
		t.Errorf("of everybody's there are %d", len(got.List))
	}
}

// What others put into a layout in whatever number hides nothing that the host's keys have
// signed, which is found once however often it is there.
func TestFloodOfALayout(t *testing.T) {
	hasTime(t)
	r, img := pushed(t, ServerOptions{}, nil)
	c := client(t, r)
	key, _, _ := keys(t, nil)
	stranger, _, _ := keys(t, nil)
	dir := t.TempDir() + "/x"
	_, err := c.Copy(ctx, loc(t, r.host+"/team/web:1"), loc(t, "oci:"+dir), CopyOptions{})
	check(t, err)
	to := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: img.Digest}
	var list []ocispec.Descriptor
	l, err := layout.Make(dir)
	check(t, err)
	put := func(key *sign.PrivateKey, text string, times int) {
		doc := someDocument(t, key, text)
		for i := range times {
			to.Size = int64(i + 1) // of which it is another manifest
			blobs, err := sign.Attachment(doc, document.Approval, to)
			check(t, err)
			for _, b := range blobs {
				check(t, l.PutBlob(ctx, b.Descriptor, bytes.NewReader(b.Content)))
			}
			list = append(list, blobs[2].Descriptor)
		}
	}
	for i := range 120 {
		put(stranger, fmt.Sprint("about ", i), 1)
	}
	put(key, "about this", 110)
	put(key, "about that", 1)
	check(t, l.Update(func(idx *ocispec.Index) error { idx.Manifests = append(idx.Manifests, list...); return nil }))
	check(t, l.Close())
	s := newStore(t)
	s.Trusted = func(_ digest.Digest, doc sign.Signature) string {
		if key.Public().Signed(doc) {
			return "key"
		}
		return ""
	}
	got, err := s.Import(ctx, dir, "", nil)
	check(t, err)
	docs, err := s.Approvals(got.Digest)
	check(t, err)
	docs = slices.DeleteFunc(docs, func(doc sign.Signature) bool { return !key.Public().Signed(doc) })
	if len(docs) != 2 {
		t.Errorf("got %d of the two", len(docs))
	}
}

// A registry that has no list of referrers has them under OCI's tag, and an image without any is
// copied from one that says so in whatever way.
func TestDocumentsWithoutReferrers(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusBadRequest,
		http.StatusNotImplemented} {
		r, img := pushed(t, ServerOptions{}, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/referrers/") {
					http.Error(w, "", status)
					return
				}
				w = &unsaid{w}
				next.ServeHTTP(w, r)
			})
		})
		c := client(t, r)
		done, err := c.Copy(ctx, loc(t, r.host+"/team/web:1"), loc(t, "oci:"+t.TempDir()+"/x"), CopyOptions{})
		if err != nil || done.Attached != 0 {
			t.Errorf("%d: %+v, %v", status, done, err)
		}
		key, _, _ := keys(t, nil)
		check(t, client(t, r).Attach(ctx, loc(t, r.host+"/team/web@"+img.Digest.String()),
			someDocument(t, key, "about this"), document.Approval))
		if got := r.documents(t, c, img, anyDocument(key)); len(got.List) != 1 {
			t.Errorf("%d: got %+v", status, got)
		}
	}
}

// unsaid does not tell that the registry knows what refers to what.
type unsaid struct{ http.ResponseWriter }

func (u *unsaid) WriteHeader(status int) {
	u.Header().Del("OCI-Subject")
	u.ResponseWriter.WriteHeader(status)
}

// The images of an index are those that are approved, each by itself.
func TestImagesOfAnIndex(t *testing.T) {
	r := serve(t, ServerOptions{}, nil)
	c, s := client(t, r), newStore(t)
	dir := indexOf(t, s, "multi", putImage(t, s, "a", host, layer(t, "a", 100)),
		putImage(t, s, "b", ocispec.Platform{OS: "plan9", Architecture: "386"}, layer(t, "b", 100)))
	done, err := c.Copy(ctx, loc(t, "oci:"+dir), loc(t, r.host+"/multi:1"), CopyOptions{All: true})
	check(t, err)
	list, err := c.Images(ctx, loc(t, r.host+"/multi@"+done.Digest.String()), image.Limits{})
	if err != nil || len(list) != 2 || list[0].Digest == list[1].Digest || list[0].Digest == done.Digest {
		t.Fatalf("got %+v, %v", list, err)
	}
	key, _, _ := keys(t, nil)
	for _, img := range list {
		check(t, c.Attach(ctx, loc(t, r.host+"/multi@"+img.Digest.String()), someDocument(t, key, "about this"),
			document.Approval))
	}
	// A copy of all has those of all.
	copied, err := c.Copy(ctx, loc(t, r.host+"/multi:1"), loc(t, "oci:"+t.TempDir()+"/x"), CopyOptions{All: true})
	if err != nil || copied.Attached != 2 {
		t.Errorf("got %+v, %v", copied, err)
	}
	got, err := c.Pull(ctx, s, ref(t, r.host+"/multi:1"), PullOptions{Approvals: anyDocument(key)})
	check(t, err)
	if docs, err := s.Approvals(got.Digest); err != nil || len(docs) != 1 {
		t.Errorf("got %+v, %v", docs, err)
	}
}
