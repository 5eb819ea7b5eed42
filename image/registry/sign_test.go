package registry

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/sign"
)

// keys makes a pair; with files for other programs.
func keys(t *testing.T, password []byte) (private *sign.PrivateKey, public *sign.PublicKey, files string) {
	t.Helper()
	a, b, err := sign.Generate(password)
	check(t, err)
	files = filepath.Join(t.TempDir(), "key")
	check(t, os.WriteFile(files+".key", a, 0o600))
	check(t, os.WriteFile(files+".pub", b, 0o600))
	private, err = sign.ReadPrivate(a, func() ([]byte, error) { return password, nil })
	check(t, err)
	public, err = sign.ReadPublic(b)
	check(t, err)
	return private, public, files
}

func TestSignAndVerify(t *testing.T) {
	r, img := pushed(t, ServerOptions{}, nil)
	c := client(t, r)
	at := loc(t, r.host+"/team/web:1")
	key, pub, _ := keys(t, nil)
	other, otherPub, _ := keys(t, nil)
	_, err := c.Verify(ctx, at, pub, "", image.Limits{})
	wantError(t, err, "none of the 0 signatures")
	for range 2 { // the second time there is nothing to do
		done, err := c.Sign(ctx, at, key, "", image.Limits{})
		if err != nil || len(done) != 1 || done[0].Digest != img.Digest {
			t.Fatalf("got %+v, %v", done, err)
		}
	}
	_, err = c.Sign(ctx, at, other, "", image.Limits{})
	check(t, err)
	for _, k := range []*sign.PublicKey{pub, otherPub} {
		_, err := c.Verify(ctx, at, k, "", image.Limits{})
		check(t, err)
	}
	_, third, _ := keys(t, nil)
	_, err = c.Verify(ctx, at, third, "", image.Limits{})
	wantError(t, err, "none of the 2 signatures", "not by this key")

	// It goes along, and is bound to the repository that it names.
	tmp := t.TempDir()
	done, err := c.Copy(ctx, at, loc(t, "oci-archive:"+tmp+"/x.tar"), CopyOptions{})
	if err != nil || done.Attached != 1 {
		t.Fatalf("got %+v, %v", done, err)
	}
	_, err = c.Verify(ctx, loc(t, "oci-archive:"+tmp+"/x.tar"), pub, "", image.Limits{})
	check(t, err)
	_, err = c.Copy(ctx, loc(t, "oci-archive:"+tmp+"/x.tar"), loc(t, r.host+"/evil/web:1"), CopyOptions{})
	check(t, err)
	_, err = c.Verify(ctx, loc(t, r.host+"/evil/web:1"), pub, "", image.Limits{})
	wantError(t, err, "one is for "+r.host+"/team/web")
	_, err = c.Verify(ctx, loc(t, r.host+"/evil/web:1"), pub, r.host+"/team/web", image.Limits{})
	check(t, err)
	done, err = c.Copy(ctx, at, loc(t, "oci:"+tmp+"/unsigned"), CopyOptions{Unsigned: true})
	if err != nil || done.Attached != 0 {
		t.Errorf("got %+v, %v", done, err)
	}

	// The store keeps them from a pull and from an import, as long as the image.
	s := newStore(t)
	got, err := c.Pull(ctx, s, at.Ref, PullOptions{})
	check(t, err)
	signedBy(t, s, got, pub, r.host+"/team/web", true)
	signedBy(t, s, got, third, r.host+"/team/web", false)
	signedBy(t, s, got, pub, r.host+"/evil/web", false)
	check(t, s.Remove(got.Name))
	_, err = s.GC(ctx)
	check(t, err)
	signedBy(t, s, got, pub, r.host+"/team/web", false)
	got, err = s.Import(ctx, tmp+"/x.tar", "", nil)
	if err != nil || got.Name != r.host+"/team/web:1" {
		t.Fatalf("got %+v, %v", got, err)
	}
	signedBy(t, s, got, pub, r.host+"/team/web", true)
}

func signedBy(t *testing.T, s *layout.Store, img *image.Image, k *sign.PublicKey, repository string, want bool) {
	t.Helper()
	rec, err := s.Signatures(img.Digest)
	check(t, err)
	if got := rec.By(k, repository, img.Digest); got != want {
		t.Errorf("signed for %s: %v, want %v", repository, got, want)
	}
}

func TestSignArchive(t *testing.T) {
	dir, img := someImage(t)
	c := client(t)
	tmp := t.TempDir()
	_, err := c.Copy(ctx, loc(t, "oci:"+dir), loc(t, "oci-archive:"+tmp+"/x.tar"), CopyOptions{})
	check(t, err)
	key, pub, _ := keys(t, []byte("secret"))
	for _, at := range []Location{loc(t, "oci-archive:"+tmp+"/x.tar"), loc(t, "oci:"+dir)} {
		done, err := c.Sign(ctx, at, key, "", image.Limits{})
		if err != nil || len(done) != 1 || done[0].Identity != "web" {
			t.Fatalf("%s: got %+v, %v", at, done, err)
		}
		_, err = c.Verify(ctx, at, pub, "", image.Limits{})
		check(t, err)
	}
	s := newStore(t)
	got, err := s.Import(ctx, tmp+"/x.tar", "", nil)
	if err != nil || got.Digest != img.Digest {
		t.Fatalf("got %+v, %v", got, err)
	}
	signedBy(t, s, got, pub, "web", true)
	if left, _ := os.ReadDir(tmp); len(left) != 1 {
		t.Errorf("there is more than the archive: %v", left)
	}
	check(t, os.Symlink("x.tar", tmp+"/link"))
	_, err = c.Sign(ctx, loc(t, "oci-archive:"+tmp+"/link"), key, "", image.Limits{})
	wantError(t, err, "is a link to x.tar")
}

// A signature of an index is one of each image in it.
func TestSignedIndex(t *testing.T) {
	r := serve(t, ServerOptions{}, nil)
	c, s := client(t, r), newStore(t)
	dir := indexOf(t, s, "multi", putImage(t, s, "a", host, layer(t, "a", 100)),
		putImage(t, s, "b", ocispec.Platform{OS: "plan9", Architecture: "386"}, layer(t, "b", 100)))
	_, err := c.Copy(ctx, loc(t, "oci:"+dir), loc(t, r.host+"/multi:1"), CopyOptions{All: true})
	check(t, err)
	key, pub, _ := keys(t, nil)
	done, err := c.Sign(ctx, loc(t, r.host+"/multi:1"), key, "", image.Limits{})
	if err != nil || len(done) != 3 {
		t.Fatalf("got %+v, %v", done, err)
	}
	got, err := c.Pull(ctx, s, ref(t, r.host+"/multi:1"), PullOptions{})
	check(t, err)
	rec, err := s.Signatures(got.Digest)
	check(t, err)
	if len(rec.Signatures) != 2 || len(rec.Indexes) != 1 {
		t.Fatalf("got %d signatures and %d indexes", len(rec.Signatures), len(rec.Indexes))
	}
	stores := []string{"store:" + t.TempDir(), "store:" + t.TempDir()}
	for i, from := range []string{r.host + "/multi:1", stores[0]} {
		done, err := c.Copy(ctx, loc(t, from), loc(t, stores[i]), CopyOptions{})
		if err != nil || done.Digest != got.Digest || done.Attached != 2 {
			t.Fatalf("%s to a store: %+v, %v", from, done, err)
		}
	}
	copied, err := layout.OpenStore(loc(t, stores[1]).Path, image.Limits{})
	check(t, err)
	if same, err := copied.Signatures(got.Digest); err != nil || !reflect.DeepEqual(same, rec) {
		t.Errorf("copied from store to store, signatures are %+v, %v; want %+v", same, err, rec)
	}
	check(t, copied.Close())
	if done, err := c.Copy(ctx, loc(t, stores[1]), loc(t, "oci:"+t.TempDir()+"/x"), CopyOptions{}); err != nil ||
		done.Attached != 1 {
		t.Errorf("out of a store: %+v, %v; want the image's own signature", done, err)
	}
	var own []sign.Signature
	for _, sig := range rec.Signatures {
		if st, err := pub.Verify(sig); err != nil || st.Digest != got.Digest {
			own = append(own, sig) // the index's alone
		}
	}
	rec.Signatures = own
	if !rec.By(pub, r.host+"/multi", got.Digest) {
		t.Error("the index's signature does not count")
	}
	rec.Indexes = nil
	if rec.By(pub, r.host+"/multi", got.Digest) {
		t.Error("it counts without the index")
	}
}

// Signatures go into a store, from there into another, and out of it again.
func TestSignaturesInAStore(t *testing.T) {
	r, img := pushed(t, ServerOptions{}, nil)
	c := client(t, r)
	key, pub, _ := keys(t, nil)
	tmp := t.TempDir()
	_, err := c.Sign(ctx, loc(t, r.host+"/team/web:1"), key, "", image.Limits{})
	check(t, err)
	name := r.host + "/team/web:1"
	for _, pair := range [][2]string{{name, "store:" + tmp + "/a"}, {"store:" + tmp + "/a:" + name, "store:" +
		tmp + "/b"},
		{"store:" + tmp + "/b", "oci-archive:" + tmp + "/x.tar"}, {"oci-archive:" + tmp + "/x.tar", "store:" + tmp +
			"/c"},
		{"store:" + tmp + "/c", r.host + "/team/web:2"}} {
		done, err := c.Copy(ctx, loc(t, pair[0]), loc(t, pair[1]), CopyOptions{})
		if err != nil || done.Digest != img.Digest || done.Attached != 1 {
			t.Fatalf("%s to %s: %+v, %v", pair[0], pair[1], done, err)
		}
		_, err = c.Verify(ctx, loc(t, pair[1]), pub, "", image.Limits{})
		check(t, err)
	}
	for _, to := range []string{"store:" + tmp + "/d", "oci:" + tmp + "/l"} {
		done, err := c.Copy(ctx, loc(t, "store:"+tmp+"/c"), loc(t, to), CopyOptions{Unsigned: true})
		if err != nil || done.Attached != 0 {
			t.Fatalf("%+v, %v", done, err)
		}
		_, err = c.Verify(ctx, loc(t, to), pub, "", image.Limits{})
		wantError(t, err, "none of the 0 signatures")
	}
	_, err = c.Copy(ctx, loc(t, name), loc(t, "store:"+tmp+"/a"), CopyOptions{Referrers: true})
	wantError(t, err, "leave out --referrers")
}

// skopeoPolicy asks for a signature by a key on a registry.
func skopeoPolicy(t *testing.T, host, key string) []string {
	t.Helper()
	dir := t.TempDir()
	b, err := json.Marshal(map[string]any{"default": []any{map[string]string{"type": "reject"}},
		"transports": map[string]any{
			"docker": map[string]any{host: []any{map[string]any{"type": "sigstoreSigned", "keyPath": key,
				"signedIdentity": map[string]string{"type": "matchRepository"}}}},
			"oci": map[string]any{"": []any{map[string]string{"type": "insecureAcceptAnything"}}}}})
	check(t, err)
	check(t, os.WriteFile(dir+"/policy.json", b, 0o600))
	check(t, os.Mkdir(dir+"/registries.d", 0o700))
	check(t, os.WriteFile(dir+"/registries.d/all.yaml",
		[]byte("docker:\n  "+host+":\n    use-sigstore-attachments: true\n"), 0o600))
	return []string{"--policy", dir + "/policy.json", "--registries.d", dir + "/registries.d"}
}

// The library of skopeo and podman takes what is signed here and refuses the
// rest; what it signs is verified here. Both with a registry of ours and with
// Debian's. (Debian's skopeo is built without sigstore.)
func TestInteropSignatures(t *testing.T) {
	bin := os.Getenv("SIGSTORE_BIN")
	if bin == "" {
		t.Skip("SIGSTORE_BIN names no program: make test builds it")
	}
	ours := serve(t, ServerOptions{}, nil)
	theirs := dockerRegistry(t)
	c := client(t, ours, Host{Name: theirs, PlainHTTP: true})
	key, pub, files := keys(t, []byte("secret"))
	dir, _ := someImage(t)
	for _, at := range []string{ours.host, theirs} {
		skopeo := func(args ...string) (string, error) {
			cmd := exec.CommandContext(t.Context(), bin, append(skopeoPolicy(t, at, files+".pub"), args...)...)
			b, err := cmd.CombinedOutput()
			return string(b), err
		}
		for _, name := range []string{"signed", "unsigned", "tampered"} {
			_, err := c.Copy(ctx, loc(t, "oci:"+dir), loc(t, at+"/"+name+":1"), CopyOptions{})
			check(t, err)
		}
		_, err := c.Sign(ctx, loc(t, at+"/signed:1"), key, "", image.Limits{})
		check(t, err)
		// The tag of the tampered one leads to another image, beside which the
		// signature of the first one lies.
		other, _ := someOther(t)
		_, err = c.Copy(ctx, loc(t, "oci:"+other), loc(t, at+"/tampered:1"), CopyOptions{})
		check(t, err)
		moveSignature(t, c, at)
		for name, want := range map[string]bool{"signed": true, "unsigned": false, "tampered": false} {
			out, err := skopeo("docker://"+at+"/"+name+":1", "oci:"+t.TempDir()+"/x:x")
			if (err == nil) != want {
				t.Errorf("%s: skopeo takes %s: %v, want %v\n%s", at, name, err == nil, want, out)
			}
			if _, verr := c.Verify(ctx, loc(t, at+"/"+name+":1"), pub, "", image.Limits{}); (verr == nil) != want {
				t.Errorf("%s: %s: %v", at, name, verr)
			}
		}
		out, err := skopeo("--key", files+".key", "--passphrase", "secret", "oci:"+dir+":web", "docker://"+at+
			"/theirs:1")
		if err != nil {
			t.Fatalf("skopeo signs: %v\n%s", err, out)
		}
		_, err = c.Verify(ctx, loc(t, at+"/theirs:1"), pub, "", image.Limits{})
		check(t, err)
	}
}

func someOther(t *testing.T) (dir string, img *image.Image) {
	s := newStore(t)
	img = putImage(t, s, "web", host, layer(t, "evil", 1000))
	return layoutOf(t, s, "web"), img
}

// moveSignature puts the signature of signed:1 beside tampered:1.
func moveSignature(t *testing.T, c *Client, at string) {
	t.Helper()
	digestOf := func(name string) digest.Digest {
		src, v, err := c.source(ctx, loc(t, at+"/"+name+":1"), CopyOptions{})
		check(t, err)
		d, err := src.resolve(ctx, v, nil)
		check(t, err)
		return d.Digest
	}
	_, err := c.Copy(ctx, loc(t, at+"/signed:"+sign.Tag(digestOf("signed"))),
		loc(t, at+"/tampered:"+sign.Tag(digestOf("tampered"))), CopyOptions{Unsigned: true})
	check(t, err)
	if !strings.Contains(sign.Tag(digestOf("signed")), digestOf("signed").Encoded()) {
		t.Fatal("the tag is another")
	}
}

// What could be read in two ways is neither signed nor verified.
func TestPolyglotsAreNotSigned(t *testing.T) {
	const blob = `{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + someDigest + `","size":1}`
	for name, text := range map[string]string{
		"both kinds":   `{"schemaVersion":2,"config":` + blob + `,"layers":[],"manifests":[]}`,
		"twice":        `{"schemaVersion":2,"config":` + blob + `,"config":` + blob + `,"layers":[]}`,
		"another case": `{"schemaVersion":2,"config":` + blob + `,"Layers":[]}`,
	} {
		dir := filepath.Join(t.TempDir(), "layout")
		l, err := layout.Make(dir)
		check(t, err)
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(text),
			Size: int64(len(text))}
		check(t, l.PutBlob(ctx, d, strings.NewReader(text)))
		check(t, l.Tag(d, "registry.example/web:1"))
		check(t, l.Close())
		key, pub, _ := keys(t, nil)
		if done, err := client(t).Sign(ctx, loc(t, "oci:"+dir), key, "", image.Limits{}); err == nil {
			t.Errorf("%s: it is signed: %v", name, done)
		}
		_, err = client(t).Verify(ctx, loc(t, "oci:"+dir), pub, "", image.Limits{})
		if err == nil || strings.Contains(err.Error(), "none of the") {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
}

// What is verified is what is imported and copied, or each says that a name is that
// of several images.
func TestOneNameOfSeveralImages(t *testing.T) {
	host := ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
	other := ocispec.Platform{OS: "plan9", Architecture: "mips"}
	key, pub, _ := keys(t, nil)
	c := client(t)
	for name, p := range map[string][2]*ocispec.Platform{
		"none named": {nil, nil}, "the second named": {nil, &host}, "the same": {&host, &host},
		"told apart": {&other, &host},
	} {
		s := newStore(t)
		putImage(t, s, "web", host, layer(t, "good", 10))
		dir := layoutOf(t, s, "web")
		_, err := c.Sign(ctx, loc(t, "oci:"+dir+":web"), key, "", image.Limits{})
		check(t, err)
		evil := putImage(t, s, "web", host, layer(t, "evil", 10))
		check(t, os.CopyFS(filepath.Join(dir, "more"), os.DirFS(layoutOf(t, s, "web"))))
		blobs, err := filepath.Glob(filepath.Join(dir, "more/blobs/sha256/*"))
		check(t, err)
		for _, b := range blobs {
			check(t, os.Rename(b, filepath.Join(dir, "blobs/sha256", filepath.Base(b))))
		}
		read := func(path string) (idx ocispec.Index) {
			b, err := os.ReadFile(filepath.Join(dir, path))
			check(t, err)
			check(t, json.Unmarshal(b, &idx))
			return idx
		}
		idx, more := read("index.json"), read("more/index.json").Manifests[0]
		for i := range idx.Manifests {
			if idx.Manifests[i].Annotations[ocispec.AnnotationRefName] == "web" {
				idx.Manifests[i].Platform = p[0]
			}
		}
		more.Platform = p[1]
		idx.Manifests = append(idx.Manifests, more)
		b, err := json.Marshal(idx)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(dir, "index.json"), b, 0o644))

		_, verified := c.Verify(ctx, loc(t, "oci:"+dir+":web"), pub, "", image.Limits{})
		img, imported := newStore(t).Import(ctx, dir, "web", nil)
		done, copied := c.Copy(ctx, loc(t, "oci:"+dir+":web"), loc(t, "oci:"+t.TempDir()+"/out"), CopyOptions{})
		if name == "told apart" {
			wantError(t, verified, "none of the 0 signatures of "+evil.Digest.String())
			check(t, imported)
			check(t, copied)
			if img.Digest != evil.Digest || done.Digest != evil.Digest {
				t.Errorf("%s is imported, %s copied", img.Digest, done.Digest)
			}
			continue
		}
		for _, err := range []error{verified, imported, copied} {
			wantError(t, err, `the name "web" is ambiguous: several images`)
		}
	}
}

// What would stay unsigned is told.
func TestSignLeavesNothingOut(t *testing.T) {
	c := client(t)
	key, _, _ := keys(t, nil)
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("a"), Size: 1}
	inner := d
	inner.MediaType = ocispec.MediaTypeImageIndex
	many := make([]ocispec.Descriptor, maxSigned)
	for i := range many {
		many[i] = d
	}
	for want, list := range map[string][]ocispec.Descriptor{"is an index too": {d, inner}, "more than the 1000": many} {
		l, err := layout.Make(t.TempDir())
		check(t, err)
		idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: list}
		idx.SchemaVersion = 2
		b, err := json.Marshal(idx)
		check(t, err)
		root := ocispec.Descriptor{MediaType: idx.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		check(t, l.PutBlob(ctx, root, strings.NewReader(string(b))))
		check(t, l.Tag(root, "web"))
		check(t, l.Close())
		_, err = c.Sign(ctx, loc(t, "oci:"+l.Dir()+":web"), key, "", image.Limits{})
		wantError(t, err, want)
	}
}
