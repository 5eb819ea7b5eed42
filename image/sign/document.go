package sign

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/strictjson"
)

// Names of a document that is attached to an image, in the manifest that attaches it.
// Lists of what refers to an image have its annotations.
const (
	documentSignature = "org.freejail.document.signature" // in hexadecimal digits
	documentDigest    = "org.freejail.document.digest"    // of the payload
)

// Bounds of the documents that are kept beside an image: of each key that is trusted, and of all others together. Of
// many keys each has an equal share of what all may have.
const (
	maxDocuments     = 100
	maxDocumentBytes = 1 << 20
	maxShares        = 4 // of all keys together
)

// SignDocument signs a text that says itself what it is, so that it is taken for nothing
// else that the key has signed.
func (k *PrivateKey) SignDocument(payload []byte) (Signature, error) {
	sig, err := k.sign(payload)
	return Signature{payload, sig}, err
}

// Signed tells whether the key has signed what a document says.
func (k *PublicKey) Signed(s Signature) bool { return k.verify(s.Payload, s.Signature) }

// Fingerprint names a key: the SHA-256 of its public part in PKIX form, in hexadecimal digits.
func (k *PublicKey) Fingerprint() string {
	der, err := x509.MarshalPKIXPublicKey(k.key)
	if err != nil {
		return "" // it was read in this form
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// Announced is a document that a list of referrers tells of: what it is is in a blob of its own.
type Announced struct {
	Digest    digest.Digest // of the payload
	Signature []byte
}

// By tells whether the key has signed the document with that digest. What is not yet fetched
// is known by it, so that what others have attached beside costs no request.
func (a Announced) By(k *PublicKey) bool { return k.verifyDigest(a.Digest, a.Signature) }

// Announcement reads the annotations of a manifest that attaches a document; ok is false of others.
func Announcement(annotations map[string]string) (a Announced, ok bool) {
	a.Digest = digest.Digest(annotations[documentDigest])
	text := annotations[documentSignature]
	if document.CheckDigest(a.Digest) != nil || text == "" || len(text) > 2*maxSignature {
		return a, false
	}
	var err error
	a.Signature, err = hex.DecodeString(text)
	return a, err == nil
}

// Attachment writes a document as a manifest of an artifact type that refers to an image:
// the blobs that it names, and then itself. Of one document it is always the same.
func Attachment(s Signature, artifactType string, to ocispec.Descriptor) ([]Blob, error) {
	if len(s.Payload) > MaxPayload || len(s.Signature) > maxSignature {
		return nil, errors.New("the document is too large to be attached")
	}
	payload, config := blob(artifactType, s.Payload), blob(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: artifactType, Config: config.Descriptor, Layers: []ocispec.Descriptor{payload.Descriptor},
		Subject: &ocispec.Descriptor{MediaType: to.MediaType, Digest: to.Digest, Size: to.Size},
		Annotations: map[string]string{documentDigest: payload.Descriptor.Digest.String(),
			documentSignature: hex.EncodeToString(s.Signature)}}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	self := blob(m.MediaType, text)
	self.Descriptor.ArtifactType, self.Descriptor.Annotations = artifactType, m.Annotations
	return []Blob{payload, config, self}, nil
}

// Documents are those that are kept beside an image, to be verified whenever they matter.
type Documents []Signature

// MaxDocumentsText bounds Documents as text: in base64, with their signatures.
const MaxDocumentsText = (maxShares + 1) * (2*maxDocumentBytes + maxDocuments*2*maxSignature)

// UnmarshalText reads documents as a store keeps them.
func (d *Documents) UnmarshalText(b []byte) error {
	type plain struct {
		Documents []Signature `json:"documents"`
	}
	var p plain
	rules := strictjson.Rules{Bytes: MaxDocumentsText, Values: 10 * (maxShares + 1) * maxDocuments}
	err := strictjson.Unmarshal(b, &p, rules)
	*d = p.Documents
	return err
}

// MarshalText writes what UnmarshalText reads.
func (d Documents) MarshalText() ([]byte, error) {
	return json.Marshal(struct {
		Documents []Signature `json:"documents"`
	}{d})
}

// Merge adds others. Those that are trusted stay before all others: trusted is the fingerprint of the key that has
// signed a document, or empty; nil trusts none. A payload is kept once of each key, and no key has more than its share.
// Of what exceeds one the oldest half of what there is room for and the newest stay.
func (d *Documents) Merge(more Documents, trusted func(Signature) string) {
	type signed struct {
		payload digest.Digest
		by      string
	}
	seen, of := map[signed]bool{}, map[string][]Signature{}
	for _, list := range []Documents{*d, more} { // one that was there stays as old as it is
		fresh := map[string][]Signature{}
		for _, s := range list {
			by := ""
			if trusted != nil {
				by = trusted(s)
			}
			this := signed{digest.FromBytes(s.Payload), cmp.Or(by, string(s.Signature))}
			if !seen[this] {
				seen[this] = true
				fresh[by] = append(fresh[by], s)
			}
		}
		for by, list := range fresh {
			of[by] = append(list, of[by]...) // the newest come first
		}
	}
	others := of[""]
	delete(of, "")
	shares := max(len(of), maxShares)
	most, bytes := maxShares*maxDocuments/shares, maxShares*maxDocumentBytes/shares
	size := func(s Signature) int { return len(s.Payload) + len(s.Signature) }
	used := 0
	*d = nil
	for _, by := range slices.Sorted(maps.Keys(of)) {
		*d = append(*d, ends(of[by], most, bytes, size)...)
	}
	for _, s := range *d {
		used += size(s)
	}
	*d = append(*d, ends(others, max(0, maxDocuments-len(*d)), max(0, maxDocumentBytes-used), size)...)
}
