// Package sign makes and verifies signatures of images in the format of cosign's
// "simple signing", which skopeo, podman and cosign read: see
// https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md.
package sign

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
)

// Types of PEM blocks. Cosign has renamed its own.
const (
	pemPublic     = "PUBLIC KEY"
	pemPrivate    = "PRIVATE KEY"
	pemEC         = "EC PRIVATE KEY"
	pemEncrypted  = "ENCRYPTED COSIGN PRIVATE KEY"
	pemEncrypted2 = "ENCRYPTED SIGSTORE PRIVATE KEY"
)

// maxKey bounds a file with a key, in bytes.
const maxKey = 64 << 10

// PublicKey verifies.
type PublicKey struct{ key *ecdsa.PublicKey }

// PrivateKey signs. It shows as nothing where it is printed.
type PrivateKey struct{ key *ecdsa.PrivateKey }

func (*PrivateKey) String() string { return "(private key)" }

// GoString hides the secret.
func (*PrivateKey) GoString() string { return "(private key)" }

// Public is the key that verifies what k signs.
func (k *PrivateKey) Public() *PublicKey { return &PublicKey{&k.key.PublicKey} }

// Generate makes a key pair (ECDSA P-256) as PEM. With a password, which may be
// empty, the private key is in cosign's encrypted format; nil writes PKCS #8 in
// the clear.
func Generate(password []byte) (private, public []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	kind := pemPrivate
	if password != nil {
		// These parameters are those that every version of cosign and skopeo takes.
		if der, err = encrypted.EncryptWithCustomKDFParameters(der, password, encrypted.Legacy); err != nil {
			return nil, nil, err
		}
		kind = pemEncrypted
	}
	pub, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, nil, err
	}
	private = pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	return private, pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: pub}), nil
}

// ReadPrivate reads a private key in PEM: PKCS #8, SEC 1, or cosign's encrypted
// format, for which password is asked.
func ReadPrivate(text []byte, password func() ([]byte, error)) (*PrivateKey, error) {
	block, err := decode(text)
	if err != nil {
		return nil, err
	}
	der := block.Bytes
	switch block.Type {
	case pemEC:
		key, err := x509.ParseECPrivateKey(der)
		if err != nil {
			return nil, errors.New("the private key cannot be read") // an error might quote it
		}
		return &PrivateKey{key}, nil
	case pemEncrypted, pemEncrypted2:
		secret, err := password()
		if err != nil {
			return nil, err
		}
		if der, err = encrypted.Decrypt(der, secret); err != nil {
			return nil, errors.New("the private key cannot be decrypted: wrong password, or damaged file")
		}
	case pemPrivate:
	default:
		return nil, fmt.Errorf("%q is not a private key: want %s or %s", block.Type, pemPrivate, pemEncrypted)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("the private key cannot be read")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the private key is a %T: only ECDSA is supported", parsed)
	}
	return &PrivateKey{key}, nil
}

// ReadPublic reads a public key in PEM.
func ReadPublic(text []byte) (*PublicKey, error) {
	block, err := decode(text)
	if err != nil {
		return nil, err
	}
	if block.Type != pemPublic {
		return nil, fmt.Errorf("%q is not a public key: want %s", block.Type, pemPublic)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the public key cannot be read: %w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the public key is a %T: only ECDSA is supported", parsed)
	}
	return &PublicKey{key}, nil
}

func decode(text []byte) (*pem.Block, error) {
	if len(text) > maxKey {
		return nil, fmt.Errorf("key file too large: %d bytes", len(text))
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("not a PEM key")
	}
	return block, nil
}

func (k *PrivateKey) sign(b []byte) ([]byte, error) {
	sum := sha256.Sum256(b)
	return ecdsa.SignASN1(rand.Reader, k.key, sum[:])
}

func (k *PublicKey) verify(b, signature []byte) bool {
	sum := sha256.Sum256(b)
	return ecdsa.VerifyASN1(k.key, sum[:], signature)
}

// verifyDigest is verify of what has a SHA-256 digest.
func (k *PublicKey) verifyDigest(d digest.Digest, signature []byte) bool {
	sum, err := hex.DecodeString(d.Encoded())
	return err == nil && d.Algorithm() == digest.SHA256 && ecdsa.VerifyASN1(k.key, sum, signature)
}
