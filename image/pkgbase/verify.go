package pkgbase

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/freejail/freejail/internal/regular"
)

// Bounds as of pkg(8).
const (
	maxSignatures = 8
	maxSignature  = 1 << 20 // bytes
)

// signatures are those that a catalogue comes with, by the names of their keys.
type signatures struct {
	by, keys map[string]signed
}

// signed is a signature, or a public key, and its kind: rsa, ecdsa...
type signed struct {
	kind string
	data []byte
}

// header comes before what is not for RSA.
const header = "$PKGSIGN:"

func (s *signatures) add(name string, data []byte) error {
	if len(s.by)+len(s.keys) == maxSignatures {
		return fmt.Errorf("more than %d signatures and keys", maxSignatures)
	}
	kind := "rsa"
	if rest, ok := bytes.CutPrefix(data, []byte(header)); ok {
		if k, d, ok := bytes.Cut(rest, []byte("$")); ok {
			kind, data = string(k), d
		}
	}
	to := &s.by
	key, isSignature := strings.CutSuffix(name, ".sig")
	if !isSignature {
		to, key = &s.keys, strings.TrimSuffix(name, ".pub")
	}
	if _, twice := (*to)[key]; twice {
		return fmt.Errorf("%s is there twice", name)
	}
	if *to == nil {
		*to = map[string]signed{}
	}
	(*to)[key] = signed{kind, data}
	return nil
}

// verify returns an error unless one of the signatures of a catalogue is valid and by a trusted key, and none is by a
// key that was revoked.
func (s *signatures) verify(catalogue []byte, t trust) error {
	if len(s.by) == 0 {
		return errors.New("the catalogue is not signed")
	}
	sum := sha256.Sum256(catalogue)
	text := sha256.Sum256([]byte(hex.EncodeToString(sum[:]))) // pkg(8) signs the digits
	names := slices.Sorted(maps.Keys(s.by))
	for _, name := range names { // before any may say that all is well
		key, ok := s.keys[name]
		if !ok {
			return fmt.Errorf("there is no key of the signature %s", name)
		}
		if finger := fingerprint(key); t.revoked[finger] {
			return fmt.Errorf("the key %s of the catalogue was revoked (%s)", name, finger)
		}
	}
	var why error
	for _, name := range names {
		key := s.keys[name]
		if finger := fingerprint(key); !t.trusted[finger] {
			why = errors.Join(why, fmt.Errorf("no fingerprint is that of its key %s (%s)", name, finger))
			continue
		}
		err := checkSignature(s.by[name], key, text[:])
		if err == nil {
			return nil
		}
		why = errors.Join(why, fmt.Errorf("the signature by %s: %w", name, err))
	}
	return fmt.Errorf("the catalogue is not signed by a trusted key: %w", why)
}

func fingerprint(key signed) string {
	sum := sha256.Sum256(key.data)
	return hex.EncodeToString(sum[:])
}

func checkSignature(sig, key signed, sum []byte) error {
	der := key.data
	if block, _ := pem.Decode(der); block != nil {
		der = block.Bytes
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return fmt.Errorf("keys of this kind (%s) are not supported: %w", sig.kind, err)
	}
	valid := false
	switch k := parsed.(type) {
	case *rsa.PublicKey:
		valid = sig.kind == "rsa" && rsa.VerifyPKCS1v15(k, crypto.SHA256, sum, sig.data) == nil
	case *ecdsa.PublicKey:
		valid = (sig.kind == "ecdsa" || sig.kind == "ecc") && ecdsa.VerifyASN1(k, sum, sig.data)
	default:
		return fmt.Errorf("keys of this kind (%T) are not supported", parsed)
	}
	if !valid {
		return errors.New("it is not valid: the catalogue was changed")
	}
	return nil
}

// trust has the fingerprints of keys: SHA-256 in hexadecimal digits.
type trust struct{ trusted, revoked map[string]bool }

// readTrust reads a directory as pkg.conf(5) has it for fingerprints: /usr/share/keys/pkgbase-15.
func readTrust(dir string) (t trust, err error) {
	root, err := regular.Root(dir)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if t.trusted, err = fingerprints(root, "trusted"); err != nil {
		return t, fmt.Errorf("%s: %w", dir, err)
	}
	if t.revoked, err = fingerprints(root, "revoked"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return t, fmt.Errorf("%s: %w", dir, err)
	}
	if len(t.trusted) == 0 {
		return t, fmt.Errorf("%s has no fingerprints in trusted", dir)
	}
	return t, nil
}

var fingerprintFile = regexp.MustCompile(`^\s*function\s*[:=]\s*"?sha256"?[;,]?\s+` +
	`fingerprint\s*[:=]\s*"?([0-9a-fA-F]{64})"?[;,]?\s*$`)

func fingerprints(root *os.Root, dir string) (map[string]bool, error) {
	list, err := fs.ReadDir(root.FS(), dir)
	if err != nil {
		return nil, err
	}
	prints := map[string]bool{}
	for _, e := range list {
		text, err := regular.ReadIn(root, dir+"/"+e.Name(), 64<<10)
		if err != nil {
			return nil, err
		}
		m := fingerprintFile.FindSubmatch(text)
		if m == nil {
			return nil, fmt.Errorf("%s/%s: expected function: \"sha256\" and fingerprint: \"...\"", dir, e.Name())
		}
		prints[strings.ToLower(string(m[1]))] = true
	}
	return prints, nil
}
