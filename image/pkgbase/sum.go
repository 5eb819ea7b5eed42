package pkgbase

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"

	"golang.org/x/crypto/blake2b"
)

// sum is what the bytes of a file have to have; the zero sum is not known.
type sum struct {
	want string
	new  func() hash.Hash
	text func([]byte) string
}

// readSum reads a sum as pkg(8) writes it: hexadecimal digits of SHA-256, older ones of files after "1$", or after "2$"
// BLAKE2b-512 in its own base32.
func readSum(text string) (sum, error) {
	digits := strings.TrimPrefix(text, "1$")
	if b, err := hex.DecodeString(digits); err == nil && len(b) == sha256.Size {
		return sum{strings.ToLower(digits), sha256.New, hex.EncodeToString}, nil
	}
	digits, ok := strings.CutPrefix(text, "2$")
	if ok && len(digits) == (blake2b.Size*8+4)/5 && strings.Trim(digits, base32) == "" {
		return sum{digits, newBLAKE2b, encode32}, nil
	}
	return sum{}, fmt.Errorf("the sum %.80q is of a kind that is not known", text)
}

func newBLAKE2b() hash.Hash {
	h, err := blake2b.New512(nil)
	if err != nil { // only a key can be wrong
		panic(err)
	}
	return h
}

const base32 = "ybndrfg8ejkmcpqxot1uwisza345h769"

// encode32 takes five bits after the other, the lowest first; the last digit has what is left.
func encode32(b []byte) string {
	var out strings.Builder
	value, bits := uint(0), 0
	for _, c := range b {
		value |= uint(c) << bits
		for bits += 8; bits >= 5; bits -= 5 {
			out.WriteByte(base32[value&31])
			value >>= 5
		}
	}
	if bits > 0 {
		out.WriteByte(base32[value&31])
	}
	return out.String()
}

// begin gives what the bytes are to be written to, and what tells then whether they are right.
func (s sum) begin() (hash.Hash, func() bool) {
	if s.new == nil {
		return sha256.New(), func() bool { return true }
	}
	h := s.new()
	return h, func() bool { return s.text(h.Sum(nil)) == s.want }
}
