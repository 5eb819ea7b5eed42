package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// MaxBlobSignature bounds the text of a signature of a file, in bytes.
const MaxBlobSignature = 4 << 10

// SignBlob signs a file's content: an ASN.1 signature of its SHA-256 in base64, as `cosign
// sign-blob` makes it. One key makes one signature of a content (RFC 6979). What is signed in
// another way, such as a statement about an image or an approval, is refused: the signature of
// the file would be valid there too.
func (k *PrivateKey) SignBlob(r io.Reader) (string, error) {
	sum, err := blobSum(r)
	if err != nil {
		return "", err
	}
	sig, err := k.key.Sign(nil, sum, crypto.SHA256)
	return base64.StdEncoding.EncodeToString(sig), err
}

// VerifyBlob returns an error unless the key has made the signature, as SignBlob
// writes it, for the content.
func (k *PublicKey) VerifyBlob(r io.Reader, signature string) error {
	sig, err := base64.StdEncoding.DecodeString(strings.TrimSpace(signature))
	if err != nil || len(sig) > maxSignature {
		return errors.New("not a signature of a file: expected base64 in one line")
	}
	sum, err := blobSum(r)
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(k.key, sum, sig) {
		return errors.New("the signature is not by this key, or not for this content")
	}
	return nil
}

// maxStatement is more than anything else has that a key signs, in bytes.
const maxStatement = 2 << 20

func blobSum(r io.Reader) ([]byte, error) {
	h := sha256.New()
	head, err := io.ReadAll(io.TeeReader(io.LimitReader(r, maxStatement+1), h))
	if err != nil {
		return nil, err
	}
	if len(head) <= maxStatement {
		if err := checkBlob(head); err != nil {
			return nil, err
		}
	}
	_, err = io.Copy(h, r)
	return h.Sum(nil), err
}

// checkBlob refuses documents that say what they are, as all do that are signed as such.
func checkBlob(b []byte) error {
	var s struct {
		Critical json.RawMessage
		Type     any
	}
	if json.Unmarshal(b, &s) != nil {
		return nil
	}
	if s.Critical != nil {
		return errors.New("it is a statement about an image, which sign makes: it is not signed as a file")
	}
	if kind, ok := s.Type.(string); ok && strings.HasPrefix(kind, "freejail ") {
		return fmt.Errorf("it is a document of freejail (%q), which its own command signs: it is not signed as a file",
			kind)
	}
	return nil
}
