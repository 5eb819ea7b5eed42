package sign

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
)

const identity = "registry.example/team/web"

func newKey(t *testing.T) *PrivateKey {
	t.Helper()
	text, _, err := Generate(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ReadPrivate(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func signed(t *testing.T, key *PrivateKey, d digest.Digest) Signature {
	t.Helper()
	s, err := key.Sign(Statement{identity, d})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A signature of a manifest is none of what the manifest names in a field of an
// index, also where a record from before has it among the indexes.
func TestASignatureIsNotLent(t *testing.T) {
	key, evil := newKey(t), digest.FromString("evil")
	member := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":4}`, ocispec.MediaTypeImageManifest, evil)
	config := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":2}`, ocispec.MediaTypeImageConfig,
		digest.FromString("{}"))
	for name, c := range map[string]struct {
		text string
		lent bool
	}{
		"an index": {`{"schemaVersion":2,"manifests":[` + member + `]}`, true},
		"a manifest": {`{"schemaVersion":2,"config":` + config + `,"layers":[],"manifests":[` + member + `]}`,
			false},
		"without layers": {`{"schemaVersion":2,"config":` + config + `,"manifests":[` + member + `]}`, false},
		"another case":   {`{"schemaVersion":2,"manifests":[],"Manifests":[` + member + `]}`, false},
		"twice":          {`{"schemaVersion":2,"manifests":[],"manifests":[` + member + `]}`, false},
		"a manifest by type": {`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","manifests":[` +
			member + `]}`, false},
	} {
		b := []byte(c.text)
		r := Record{Signatures: []Signature{signed(t, key, digest.FromBytes(b))}, Indexes: [][]byte{b}}
		if r.By(key.Public(), identity, evil) != c.lent {
			t.Errorf("%s: the image is signed: %v", name, !c.lent)
		}
		if !r.By(key.Public(), identity, digest.FromBytes(b)) {
			t.Errorf("%s: what was signed is not", name)
		}
	}
}

// What a key has signed says one thing.
func TestStatementsAreReadInOneWay(t *testing.T) {
	key := newKey(t)
	d, other := digest.FromString("a"), digest.FromString("b")
	good := fmt.Sprintf(
		`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":%q},"optional":{"creator":"x","Creator":"y"}}`, identity, d, criticalType)
	for name, text := range map[string]string{
		"twice": strings.Replace(good, `{"docker-manifest`,
			fmt.Sprintf(`{"docker-manifest-digest":%q,"docker-manifest`, other), 1),
		"another case": strings.Replace(good, `{"docker-manifest`,
			fmt.Sprintf(`{"Docker-Manifest-Digest":%q,"docker-manifest`, other), 1),
		"two images": strings.Replace(good, `"image":`,
			fmt.Sprintf(`"Image":{"docker-manifest-digest":%q},"image":`, other), 1),
		"more critical":      strings.Replace(good, `"type":`, `"until":"tomorrow","type":`, 1),
		"something after it": good + "{}",
		"not UTF-8":          strings.Replace(good, "creator", "\xff", 1),
		"many values":        strings.Replace(good, `"x"`, "["+strings.Repeat("1,", 2000)+"1]", 1),
	} {
		sig, err := key.sign([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if st, err := key.Public().Verify(Signature{[]byte(text), sig}); err == nil {
			t.Errorf("%s: it states %v", name, st)
		}
	}
	sig, err := key.sign([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if st, err := key.Public().Verify(Signature{[]byte(good), sig}); err != nil || st.Digest != d {
		t.Errorf("it states %v: %v", st, err)
	}
}

// rubbish is a signature that says what a good one does, and is none.
func rubbish(d digest.Digest, n, size int) []Signature {
	text := fmt.Sprintf(
		`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":%q},"optional":{"n":%d,"x":%q}}`,
		identity, d, criticalType, n, strings.Repeat("x", size))
	return []Signature{{[]byte(text), []byte("x")}}
}

// indexOf is an index of so many bytes that leads to an image.
func indexOf(d digest.Digest, n, size int) []byte {
	text := fmt.Sprintf(
		`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":4}],"annotations":{"n":"%d","x":"`,
		ocispec.MediaTypeImageManifest, d, n)
	return []byte(text + strings.Repeat("x", max(0, size-len(text)-3)) + `"}}`)
}

// Whoever brings an image again with signatures of his own, takes none away.
func TestSignaturesAreNotPushedOut(t *testing.T) {
	key, d := newKey(t), digest.FromString("a")
	idx := indexOf(d, -1, 0)
	mine := Record{Signatures: []Signature{signed(t, key, digest.FromBytes(idx))}, Indexes: [][]byte{idx}}
	for name, size := range map[string]int{"many": 0, "large": MaxPayload - 1000} {
		var r Record
		r.Merge(d, mine)
		r.Merge(d, mine) // pulled once more
		for i := range 3 {
			var more Record
			for n := range maxSignatures {
				more.Signatures = append(more.Signatures, rubbish(d, i*maxSignatures+n, size)...)
			}
			for n := range maxIndexes {
				more.Indexes = append(more.Indexes, indexOf(d, i*maxIndexes+n, size))
			}
			r.Merge(d, more)
		}
		if !r.By(key.Public(), identity, d) {
			t.Errorf("%s: the signature that was there is lost", name)
		}
	}
	var r Record
	r.Merge(d, Record{Signatures: []Signature{{Payload: []byte("junk")}, signed(t, key, digest.FromString("b"))},
		Indexes: [][]byte{[]byte("junk"), indexOf(digest.FromString("b"), 0, 0)}})
	if len(r.Signatures)+len(r.Indexes) != 0 {
		t.Errorf("of what is for nothing or another image it keeps %d and %d", len(r.Signatures), len(r.Indexes))
	}
	if _, err := Manifest(make([]Signature, maxSignatures+1)); err == nil {
		t.Error("a manifest is written that is not read")
	}
}

// A record stays small, and nobody can fill it up before the signature that counts.
func TestRecordsAreBounded(t *testing.T) {
	key, d := newKey(t), digest.FromString("a")
	var r Record
	for i := range 30 {
		var more Record
		for n := range 10 {
			more.Signatures = append(more.Signatures, rubbish(d, 10*i+n, 0)...)
		}
		more.Indexes = [][]byte{indexOf(d, i, 1<<20)}
		r.Merge(d, more)
	}
	r.Merge(d, Record{Signatures: []Signature{signed(t, key, d)}})
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Signatures) != maxSignatures || len(r.Indexes) != 2 || len(text) > MaxRecord {
		t.Errorf("%d signatures and %d indexes take %d bytes", len(r.Signatures), len(r.Indexes), len(text))
	}
	var again Record
	if err := again.UnmarshalText(text); err != nil || !again.By(key.Public(), identity, d) {
		t.Errorf("the newest signature is lost: %v", err)
	}
	again = Record{Signatures: make([]Signature, maxSignatures)}
	for i := range again.Signatures {
		again.Signatures[i] = Signature{bytes.Repeat([]byte("x"), maxPayloads/maxSignatures),
			make([]byte, maxSignature)}
	}
	again.Indexes = [][]byte{make([]byte, maxIndexBytes)}
	if text, err := json.Marshal(again); err != nil || len(text) > MaxRecord {
		t.Errorf("the largest record takes %d bytes, %d can be read: %v", len(text), MaxRecord, err)
	}
}

func TestLongSignaturesAreRefused(t *testing.T) {
	m := fmt.Sprintf(`{"schemaVersion":2,"config":{"digest":"x"},"layers":[{"mediaType":%q,"annotations":{%q:%q}}]}`,
		document.CosignPayload, annotation, base64.StdEncoding.EncodeToString(make([]byte, maxSignature+1)))
	if _, err := Parse([]byte(m), ocispec.MediaTypeImageManifest, nil); err == nil ||
		!strings.Contains(err.Error(), "1025 bytes") {
		t.Errorf("the error is %v", err)
	}
}
