package sign

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/imagename"
	"github.com/freejail/freejail/internal/strictjson"
)

// Names of cosign's format.
const (
	annotation   = "dev.cosignproject.cosign/signature"
	criticalType = "cosign container image signature"
)

// Bounds of what is read of others.
const (
	MaxPayload    = 64 << 10 // bytes
	MaxRecord     = 6 << 20  // bytes of a Record as text
	maxSignature  = 1 << 10  // bytes; that of the largest key takes 139
	maxSignatures = 100      // of one image
	maxIndexes    = 16       // of one image
	maxPayloads   = 1 << 20  // bytes of one image's statements together
	maxIndexBytes = 2 << 20  // of one image's indexes together
)

var (
	payloadRules = strictjson.Rules{Bytes: MaxPayload, Values: 1000}
	recordRules  = strictjson.Rules{Bytes: MaxRecord, Values: 1000}
)

// Signature is a signed statement about an image; what it says is worth nothing
// until it is verified.
type Signature struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"` // ASN.1
}

// Digest is what a signature says it is for, which is not verified; empty where
// it says nothing.
func (s Signature) Digest() digest.Digest {
	var p payload
	if strictjson.Unmarshal(s.Payload, &p, payloadRules) != nil {
		return ""
	}
	return p.Critical.Image.Digest
}

// payload is what is signed.
type payload struct {
	Critical struct {
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest digest.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional json.RawMessage `json:"optional"`
}

// Statement is what a signature says: this repository has this digest.
type Statement struct {
	Identity string // registry.example/team/web, without a tag
	Digest   digest.Digest
}

// Sign states that a digest belongs to an identity.
func (k *PrivateKey) Sign(s Statement) (Signature, error) {
	var p payload
	p.Critical.Identity.Reference = s.Identity
	p.Critical.Image.Digest = s.Digest
	p.Critical.Type = criticalType
	p.Optional = json.RawMessage("null")
	b, err := json.Marshal(p)
	if err != nil {
		return Signature{}, err
	}
	sig, err := k.sign(b)
	return Signature{b, sig}, err
}

// Verify returns what a signature states, if the key has signed that.
func (k *PublicKey) Verify(s Signature) (Statement, error) {
	if !k.verify(s.Payload, s.Signature) {
		return Statement{}, errors.New("the signature is not by this key, or its statement was changed")
	}
	var p payload
	err := strictjson.Check(s.Payload, reflect.TypeFor[payload](), payloadRules)
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(s.Payload))
		dec.DisallowUnknownFields() // something critical that is not understood must not be passed over
		err = dec.Decode(&p)
	}
	if err != nil {
		return Statement{}, fmt.Errorf("the signed statement: %w", err)
	}
	if p.Critical.Type != criticalType {
		return Statement{}, fmt.Errorf("the signed statement is of the type %q", p.Critical.Type)
	}
	if p.Critical.Image.Digest.Validate() != nil {
		return Statement{}, errors.New("the signed statement names no digest")
	}
	return Statement{imagename.Canonical(imagename.Repository(p.Critical.Identity.Reference)),
		p.Critical.Image.Digest}, nil
}

// Record is what is known of an image's signatures, to be verified whenever they
// matter.
type Record struct {
	Signatures []Signature `json:"signatures"`
	// Indexes are those that the image was chosen from: a signature of one of
	// them is one of the image.
	Indexes [][]byte `json:"indexes,omitempty"`
}

// UnmarshalText reads a record as Store keeps it.
func (r *Record) UnmarshalText(b []byte) error {
	type plain Record
	return strictjson.Unmarshal(b, (*plain)(r), recordRules)
}

// Merge adds what another record has for an image. What does not say that it is
// for that, or for an index that leads to it, is dropped. Of more than a record
// holds the oldest half and the newest stay: anybody can add, and nobody can push
// out what was there first, or fill the record up beforehand.
func (r *Record) Merge(d digest.Digest, other Record) {
	r.Indexes = added(other.Indexes, r.Indexes, bytes.Equal)
	good := r.reach(d)
	r.Indexes = slices.DeleteFunc(r.Indexes, func(idx []byte) bool { return !good[digest.FromBytes(idx)] })
	r.Indexes = ends(r.Indexes, maxIndexes, maxIndexBytes, func(idx []byte) int { return len(idx) })
	r.Signatures = added(other.Signatures, r.Signatures, func(a, b Signature) bool {
		return bytes.Equal(a.Payload, b.Payload) && bytes.Equal(a.Signature, b.Signature)
	})
	r.Signatures = slices.DeleteFunc(r.Signatures, func(s Signature) bool { return !good[s.Digest()] })
	r.Signatures = ends(r.Signatures, maxSignatures, maxPayloads, func(s Signature) int { return len(s.Payload) })
}

// ends are, of a list whose newest come first, the oldest up to half of what may be
// by their number and by their sizes together, and of the rest the newest.
func ends[T any](list []T, most, size int, of func(T) int) []T {
	old, left := 0, size/2
	for ; old < min(most/2, len(list)); old++ {
		if left -= of(list[len(list)-1-old]); left < 0 {
			break
		}
	}
	oldest := list[len(list)-old:]
	for _, x := range oldest {
		size -= of(x)
	}
	return slices.Concat(first(list[:len(list)-old], most-old, size, of), oldest)
}

// first are as many as may be by their number and by their sizes together.
func first[T any](list []T, most, size int, of func(T) int) []T {
	for i, x := range list {
		if size -= of(x); size < 0 || i == most {
			return list[:i]
		}
	}
	return list
}

// added are the new ones and then the old ones, each once. One that was there
// stays as old as it is.
func added[T any](new, old []T, equal func(a, b T) bool) (out []T) {
	for _, x := range new {
		known := func(have T) bool { return equal(have, x) }
		if !slices.ContainsFunc(old, known) && !slices.ContainsFunc(out, known) {
			out = append(out, x)
		}
	}
	return append(out, old...)
}

// By tells whether the key has signed that the repository has the digest, itself
// or in one of the indexes.
func (r *Record) By(k *PublicKey, repository string, d digest.Digest) bool {
	good := r.reach(d)
	return slices.ContainsFunc(r.Signatures, func(s Signature) bool {
		st, err := k.Verify(s)
		return err == nil && st.Identity == imagename.Canonical(repository) && good[st.Digest]
	})
}

// Leads tells whether an index of the record leads to an image.
func (r *Record) Leads(index, d digest.Digest) bool { return r.reach(d)[index] }

// reach has the digest and those of the indexes that lead to it. What is no
// index, whoever has called it one, leads nowhere.
func (r *Record) reach(d digest.Digest) map[digest.Digest]bool {
	indexes := map[digest.Digest][]ocispec.Descriptor{}
	for _, b := range r.Indexes {
		if idx, err := document.ReadIndex(b, ""); err == nil {
			indexes[digest.FromBytes(b)] = idx.Manifests
		}
	}
	good := map[digest.Digest]bool{d: true}
	for range indexes { // one index may lead to another
		for own, manifests := range indexes {
			if slices.ContainsFunc(manifests, func(m ocispec.Descriptor) bool { return good[m.Digest] }) {
				good[own] = true
			}
		}
	}
	return good
}

// Tag is where cosign's format puts the signatures of a digest.
func Tag(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() + ".sig" }

// Parse reads the signatures of an image manifest in cosign's format, with the
// mediaType of its descriptor. What is in it beside them is passed over.
func Parse(manifest []byte, mediaType string, read func(ocispec.Descriptor) ([]byte, error)) ([]Signature, error) {
	m, err := document.ReadManifest(manifest, mediaType)
	if err != nil {
		return nil, fmt.Errorf("signatures: %w", err)
	}
	var out []Signature
	for _, l := range m.Layers {
		text, ok := l.Annotations[annotation]
		if l.MediaType != document.CosignPayload || !ok {
			continue
		}
		if len(out) == maxSignatures {
			return out, fmt.Errorf("signatures: more than %d", maxSignatures)
		}
		if l.Size < 0 || l.Size > MaxPayload {
			return out, fmt.Errorf("signatures: a statement has %d bytes: at most %d are allowed", l.Size, MaxPayload)
		}
		sig, err := base64.StdEncoding.DecodeString(text)
		if err == nil && len(sig) > maxSignature {
			err = fmt.Errorf("one has %d bytes: at most %d are allowed", len(sig), maxSignature)
		}
		if err != nil {
			return out, fmt.Errorf("signatures: %w", err)
		}
		b, err := read(l)
		if err != nil {
			return out, fmt.Errorf("signatures: %w", err)
		}
		out = append(out, Signature{b, sig})
	}
	return out, nil
}

// Blob is one that a manifest names, or the manifest itself.
type Blob struct {
	Descriptor ocispec.Descriptor
	Content    []byte
}

// Manifest writes signatures as an image manifest in cosign's format: the blobs
// that it names, and then itself.
func Manifest(list []Signature) ([]Blob, error) {
	if len(list) > maxSignatures {
		return nil, fmt.Errorf("signatures: %d: at most %d are allowed: remove some first", len(list), maxSignatures)
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	cfg := ocispec.Image{RootFS: ocispec.RootFS{Type: "layers"}}
	var out []Blob
	for _, s := range list {
		b := blob(document.CosignPayload, s.Payload)
		out = append(out, b)
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, b.Descriptor.Digest)
		d := b.Descriptor
		d.Annotations = map[string]string{annotation: base64.StdEncoding.EncodeToString(s.Signature)}
		m.Layers = append(m.Layers, d)
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	config := blob(ocispec.MediaTypeImageConfig, text)
	m.Config = config.Descriptor
	if text, err = json.Marshal(m); err != nil {
		return nil, err
	}
	return append(out, config, blob(m.MediaType, text)), nil
}

func blob(mediaType string, b []byte) Blob {
	return Blob{ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}, b}
}
