package host

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/freejail/freejail/internal/regular"
)

// Metrics say where the daemon answers scrapes.
type Metrics struct {
	Listen netip.AddrPort // not valid where it is to answer nowhere
	// CertFile and KeyFile are of its certificate, in PEM; empty is plain HTTP.
	CertFile, KeyFile string
	// TokenFile has what a scraper has to show; empty is nothing.
	TokenFile string
	Where     string // FILE:LINE
}

// metricsBlock is Metrics as it is written.
type metricsBlock struct {
	Listen    string   `hcl:"listen"`
	TLSCert   string   `hcl:"tls_cert,optional"`
	TLSKey    string   `hcl:"tls_key,optional"`
	TokenFile string   `hcl:"token_file,optional"`
	Body      hcl.Body `hcl:",body"`
}

func (f *file) metrics(r *reader) (m Metrics) {
	b := f.Metrics
	if b == nil {
		return m
	}
	at := b.Body.MissingItemRange()
	m = Metrics{Where: fmt.Sprintf("%s:%d", at.Filename, at.Start.Line)}
	fail := func(format string, args ...any) { r.fail("%s: metrics: "+format, append([]any{m.Where}, args...)...) }
	path := func(key, path string) string {
		if path == "" {
			return ""
		}
		return r.absolute(m.Where+": metrics: "+key, path)
	}
	m.CertFile, m.KeyFile = path("tls_cert", b.TLSCert), path("tls_key", b.TLSKey)
	m.TokenFile = path("token_file", b.TokenFile)
	var err error
	m.Listen, err = listenAddress(b.Listen)
	if err != nil {
		fail("listen %q %w", b.Listen, err)
		return m
	}
	if (m.CertFile == "") != (m.KeyFile == "") {
		fail("tls_cert and tls_key are needed together")
	}
	if !m.Listen.Addr().IsLoopback() && (m.CertFile == "" || m.KeyFile == "" || m.TokenFile == "") {
		fail("listen %q is not a loopback address: tls_cert, tls_key and token_file are needed beside it, or listen = "+
			"\"127.0.0.1:%d\"", b.Listen, m.Listen.Port())
	}
	return m
}

// listenAddress is an address of this host with a port; one with a port alone is all addresses.
func listenAddress(text string) (netip.AddrPort, error) {
	if strings.HasPrefix(text, ":") {
		text = "[::]" + text
	}
	a, err := netip.ParseAddrPort(text)
	switch {
	case err != nil:
		return a, errors.New("is not ADDRESS:PORT (for example 127.0.0.1:9477 or [::1]:9477)")
	case a.Port() == 0:
		return netip.AddrPort{}, errors.New("has no port")
	case a.Addr().Zone() != "":
		return netip.AddrPort{}, errors.New("has a zone: give an address without one")
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
}

const (
	maxSecret = 64 << 10
	minToken  = 16 // characters
)

// Token is what the token file has, without the space around it; empty where there is no file.
func (m Metrics) Token() (string, error) {
	if m.TokenFile == "" {
		return "", nil
	}
	token, err := readToken(m.TokenFile, "token")
	if err != nil {
		return "", fmt.Errorf("%s: metrics: token_file: %w", m.Where, err)
	}
	return token, nil
}

// readToken reads a file's one word, without the space around it.
func readToken(path, what string) (string, error) {
	b, err := readSecret(path)
	token := strings.TrimSpace(string(b))
	switch {
	case err != nil:
		return "", err
	case len(token) < minToken:
		return "", fmt.Errorf("%s: the %s has %d characters, and the minimum is %d (openssl rand -hex 16)",
			path, what, len(token), minToken)
	case strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }):
		return "", fmt.Errorf("%s: a %s is one word of ASCII", path, what)
	}
	return token, nil
}

// Certificate is that of the files; nil where there are none.
func (m Metrics) Certificate() (*tls.Certificate, error) {
	return readPair(m.Where+": metrics", m.CertFile, m.KeyFile)
}

// readPair reads tls_cert and tls_key of a block; nil where there are none.
func readPair(where, certFile, keyFile string) (*tls.Certificate, error) {
	if certFile == "" {
		return nil, nil
	}
	fail := func(key string, err error) (*tls.Certificate, error) {
		return nil, fmt.Errorf("%s: %s: %w", where, key, err)
	}
	f, _, err := regular.Open(certFile)
	if err != nil {
		return fail("tls_cert", err)
	}
	cert, err := regular.Read(f, certFile, maxSecret)
	if err = errors.Join(err, f.Close()); err != nil {
		return fail("tls_cert", err)
	}
	key, err := readSecret(keyFile)
	if err != nil {
		return fail("tls_key", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fail("tls_cert and tls_key", err)
	}
	return &pair, nil
}

// CheckFiles reads the files that the block names.
func (m Metrics) CheckFiles() error {
	_, err1 := m.Token()
	_, err2 := m.Certificate()
	return errors.Join(err1, err2)
}

// readSecret reads a file that must not be everybody's.
func readSecret(path string) ([]byte, error) {
	f, fi, err := regular.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := regular.Read(f, path, maxSecret)
	if fi.Mode().Perm()&0o007 != 0 {
		err = fmt.Errorf("%s is open to all users of this host (mode %04o): chmod 600 %s", path, fi.Mode().Perm(), path)
	}
	return b, errors.Join(err, f.Close())
}
