package layout

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/sign"
)

// takenAll imports all images of an archive, and tells of them by their names there.
func takenAll(t *testing.T, s *Store, path string) (got map[string]string, left int) {
	t.Helper()
	in, err := OpenInput(path, path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	got = map[string]string{}
	left, err = s.ImportEach(ctx, in, FetchOptions{}, func(own string, take func(string) (*image.Image, error)) error {
		img, err := take(own)
		if err != nil {
			return err
		}
		got[own] = img.Digest.String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got, left
}

// statement is one about a digest, signed by somebody.
func statement(t *testing.T, d digest.Digest) sign.Signature {
	t.Helper()
	text, _, err := sign.Generate(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := sign.ReadPrivate(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := key.Sign(sign.Statement{Identity: "registry.example/web", Digest: d})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Images that share a layer come back from one archive as they were, with what was kept beside them, and what is not
// in it is told.
func TestSaveComesBack(t *testing.T) {
	s := newStore(t, image.Limits{})
	base := layerOf(t, file("base", strings.Repeat("b", 10000)))
	one, two := putLayers(t, s, "one", base), putLayers(t, s, "two:2", base, layerOf(t, file("more", "m")))
	if _, err := s.Tag(one, "registry.example/one:1.0"); err != nil {
		t.Fatal(err)
	}
	index := fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":1}]}`,
		ocispec.MediaTypeImageManifest, one.Digest)
	err := s.AddSignatures(one.Digest, sign.Record{Signatures: []sign.Signature{statement(t, one.Digest),
		statement(t, digest.FromBytes(index))}, Indexes: [][]byte{index}})
	if err == nil {
		err = s.AddApprovals(two.Digest, sign.Documents{statement(t, two.Digest)})
	}
	if err != nil {
		t.Fatal(err)
	}
	list := []Saved{{one.Digest, "one"}, {two.Digest, "two:2"}, {one.Digest, "registry.example/one:1.0"}}
	var told []string
	save := func(o SaveOptions) *bytes.Buffer {
		told, o.Tell = nil, func(text string) { told = append(told, text) }
		var b bytes.Buffer
		if err := s.Save(ctx, list, &b, o); err != nil {
			t.Fatal(err)
		}
		return &b
	}
	b := save(SaveOptions{})
	if len(told) != 1 || !strings.Contains(told[0], "1 of the signatures") {
		t.Errorf("told %q", told)
	}
	if n := bytes.Count(b.Bytes(), []byte(strings.Repeat("b", 10000))); n != 1 {
		t.Errorf("the shared layer is there %d times", n)
	}
	if !bytes.Equal(b.Bytes(), save(SaveOptions{}).Bytes()) {
		t.Error("saved again it has other bytes")
	}
	for kind, path := range map[string]string{"plain": writeTemp(t, b.Bytes()), "zstd": writeTemp(t, zst(t, b.Bytes()))} {
		other := newStore(t, image.Limits{})
		got, left := takenAll(t, other, path)
		want := map[string]string{"one": one.Digest.String(), "two:2": two.Digest.String(),
			"registry.example/one:1.0": one.Digest.String()}
		for name, d := range want {
			if img, err := other.Get(name); got[name] != d || err != nil || img.Digest.String() != d {
				t.Errorf("%s: %s is %v, %v", kind, name, got, err)
			}
		}
		signed, err := other.Signatures(one.Digest)
		approved, err2 := other.Approvals(two.Digest)
		if err != nil || err2 != nil || len(signed.Signatures) != 1 || len(approved) != 1 || left != 0 {
			t.Errorf("%s: signatures %v, approvals %v, %d left: %v %v", kind, signed, approved, left, err, err2)
		}
		if files, err := os.ReadDir(filepath.Join(other.dir, tempDir)); err != nil || len(files) > 0 {
			t.Errorf("%s: left in %s: %v %v", kind, tempDir, files, err)
		}
		e, err := examine(t, path)
		if err != nil || e.Errors() > 0 {
			t.Errorf("%s: %v %+v", kind, err, e.List)
		}
	}
	bare := newStore(t, image.Limits{})
	takenAll(t, bare, writeTemp(t, save(SaveOptions{Unsigned: true}).Bytes()))
	signed, err := bare.Signatures(one.Digest)
	if approved, err2 := bare.Approvals(two.Digest); len(signed.Signatures)+len(approved)+len(told) > 0 ||
		errors.Join(err, err2) != nil {
		t.Errorf("unsigned: %v %v, told %q: %v %v", signed, approved, told, err, err2)
	}
}

// A blob that has changed on the disk ends a save.
func TestSaveOfADamagedLayer(t *testing.T) {
	s := newStore(t, image.Limits{})
	img := putLayers(t, s, "one", layerOf(t, file("f", "1")))
	path := filepath.Join(s.dir, blobName(img.Layers[0].Digest))
	b, err := os.ReadFile(path)
	if err == nil {
		b[0] ^= 1
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	wantError(t, s.Save(ctx, []Saved{{img.Digest, "one"}}, &out, SaveOptions{}), "digest mismatch")
}

// All images of what docker save writes are visited, each by its name; of an archive without names the only one.
func TestImportEachOfDocker(t *testing.T) {
	d := newSaved(t)
	first := strings.TrimSuffix(strings.TrimPrefix(d.manifest, "["), "]")
	d.manifest = "[" + first + "," + strings.Replace(first, "docker.io/library/web:1.0", "other:2", 1) + "]"
	got, left := takenAll(t, newStore(t, image.Limits{}), writeTemp(t, layerOf(t, d.all()...)))
	if len(got) != 2 || got["docker.io/library/web:1.0"] == "" || got["other:2"] == "" || left != 0 {
		t.Errorf("of docker: %v, %d left", got, left)
	}
	s := newStore(t, image.Limits{})
	img, other := putLayers(t, s, "one", layerOf(t, file("f", "1"))), putLayers(t, s, "two", layerOf(t, file("f", "2")))
	for _, c := range []struct {
		list []Saved
		want []string
		left int
	}{{[]Saved{{img.Digest, ""}}, []string{""}, 0}, {[]Saved{{img.Digest, ""}, {other.Digest, "two"}},
		[]string{"two"}, 1}} {
		var b bytes.Buffer
		if err := s.Save(ctx, c.list, &b, SaveOptions{}); err != nil {
			t.Fatal(err)
		}
		into := newStore(t, image.Limits{})
		in, err := OpenInput(writeTemp(t, b.Bytes()), "x")
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		left, err := into.ImportEach(ctx, in, FetchOptions{}, func(own string,
			take func(string) (*image.Image, error)) error {
			names = append(names, own)
			_, err := take(own)
			return err
		})
		if err = errors.Join(err, in.Close()); err != nil || left != c.left || !slices.Equal(names, c.want) {
			t.Errorf("%v: %q, %d left: %v", c.list, names, left, err)
		}
	}
}

// An archive of many names is refused before it has taken the first.
func TestNamesOfAnArchiveAreBounded(t *testing.T) {
	s := newStore(t, image.Limits{})
	img := putLayers(t, s, "one", layerOf(t, file("a", "b")))
	for more, want := range map[int]bool{0: true, 1: false} {
		var list []Saved
		for i := range MaxNames + more {
			list = append(list, Saved{img.Digest, fmt.Sprintf("name:%d", i)})
		}
		var b bytes.Buffer
		if err := s.Save(ctx, list, &b, SaveOptions{}); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "many.tar")
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		in, err := OpenInput(path, path)
		if err != nil {
			t.Fatal(err)
		}
		visits := 0
		_, err = s.ImportEach(ctx, in, FetchOptions{}, func(string, func(string) (*image.Image, error)) error {
			visits++
			return nil
		})
		if (err == nil) != want || want != (visits == MaxNames) || !want && visits > 0 {
			t.Errorf("%d names: %d visits, %v", len(list), visits, err)
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	}
}
