package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const sumsFile = "SHA256SUMS"

// sums writes the checksums of all files: in the form of sha256(1), then in that of sha256sum(1), which some programs
// read alone. FreeBSD's and GNU's sha256sum -c read both.
func (r *release) sums() error {
	files, err := os.ReadDir(r.out) // sorted
	if err != nil {
		return err
	}
	var bsd, gnu strings.Builder
	for _, f := range files {
		sum, _, err := fileSum(filepath.Join(r.out, f.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&bsd, "SHA256 (%s) = %s\n", f.Name(), sum)
		fmt.Fprintf(&gnu, "%s  %s\n", sum, f.Name())
	}
	return os.WriteFile(filepath.Join(r.out, sumsFile), []byte(bsd.String()+gnu.String()), 0o644)
}

// fileSum is a file's SHA-256 in hexadecimal digits, and its size in bytes.
func fileSum(file string) (sum string, size int64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
}
