// Package cafile reads certificates that are trusted beside the system's.
package cafile

import (
	"crypto/x509"
	"fmt"
	"os"
)

// Pool is the system's certificates with those of a file, in PEM; a file without any is an error.
func Pool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no PEM certificate found", file)
	}
	return pool, nil
}
