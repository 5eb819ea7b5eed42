package host

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"os/user"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/imagename"
	"github.com/freejail/freejail/policy"
)

// Mirror says which images of the host `freejail serve --mirror` gives to others, and to whom.
type Mirror struct {
	Listen netip.AddrPort // not valid where there is no block
	// Images are patterns of images' names, as in the policy.
	Images []string
	// CertFile and KeyFile are of its certificate, in PEM; empty is plain HTTP.
	CertFile, KeyFile string
	// Username and PasswordFile are what others show, in their registry blocks; empty is nothing.
	Username, PasswordFile string
	// UID and GID are the user who answers; User is his name.
	User     string
	UID, GID uint32
	// Transfers are those at once.
	Transfers int
	Rate      int64  // of all transfers, in bytes a second; 0 is no limit
	Where     string // FILE:LINE
}

// mirrorBlock is Mirror as it is written.
type mirrorBlock struct {
	Listen       string   `hcl:"listen"`
	Images       []string `hcl:"images"`
	TLSCert      string   `hcl:"tls_cert,optional"`
	TLSKey       string   `hcl:"tls_key,optional"`
	Username     string   `hcl:"username,optional"`
	PasswordFile string   `hcl:"password_file,optional"`
	User         string   `hcl:"user,optional"`
	Transfers    *int     `hcl:"transfers,optional"`
	Rate         string   `hcl:"rate,optional"`
	Body         hcl.Body `hcl:",body"`
}

const (
	maxTransfers = 4096
	// usualTransfers are for 256 hosts, each of which gets four layers at once. Those that a mirror turns away ask the
	// registry.
	usualTransfers = 1024
	// leastRate is that of one transfer, in bytes a second: clients give up those that are slower than 4 KiB.
	leastRate = 16 << 10
)

func (f *file) mirror(r *reader) (m Mirror) {
	b := f.Mirror
	if b == nil {
		return m
	}
	at := b.Body.MissingItemRange()
	m = Mirror{Where: fmt.Sprintf("%s:%d", at.Filename, at.Start.Line), Images: b.Images, Username: b.Username,
		User: cmp.Or(b.User, "nobody"), Transfers: usualTransfers}
	fail := func(format string, args ...any) { r.fail("%s: mirror: "+format, append([]any{m.Where}, args...)...) }
	file := func(key, path string) string {
		if path == "" {
			return ""
		}
		return r.absolute(m.Where+": mirror: "+key, path)
	}
	m.CertFile, m.KeyFile = file("tls_cert", b.TLSCert), file("tls_key", b.TLSKey)
	m.PasswordFile = file("password_file", b.PasswordFile)
	least := int64(leastRate)
	if b.Transfers != nil {
		m.Transfers = *b.Transfers
		least *= int64(m.Transfers)
	}
	if m.Transfers < 1 || m.Transfers > maxTransfers {
		fail("transfers %d is not within 1 to %d", m.Transfers, maxTransfers)
	}
	if m.Rate = r.size(m.Where+": mirror: rate", b.Rate, least); b.Transfers == nil && m.Rate >= leastRate {
		m.Transfers = int(min(int64(m.Transfers), m.Rate/leastRate))
	}
	if err := m.account(); err != nil {
		fail("%w", err)
	}
	if len(m.Images) == 0 {
		fail("images names none: give patterns such as \"registry.example/team/**\"")
	}
	for _, p := range m.Images {
		if err := checkImages(p); err != nil {
			fail("images: %w", err)
		}
	}
	var err error
	if m.Listen, err = listenAddress(b.Listen); err != nil {
		fail("listen %q %w", b.Listen, err)
		return m
	}
	switch local := m.Listen.Addr().IsLoopback(); {
	case (m.CertFile == "") != (m.KeyFile == ""):
		fail("tls_cert and tls_key are needed together")
	case (m.Username == "") != (m.PasswordFile == ""):
		fail("username and password_file are needed together")
	case m.Username != "" && m.CertFile == "" && !local:
		fail("a password would be sent in clear text: add tls_cert and tls_key")
	case strings.Contains(m.Username, ":"):
		fail("username %q has a colon", m.Username)
	}
	return m
}

// account finds the user who answers. Root would have all that was given up.
func (m *Mirror) account() error {
	u, err := user.Lookup(m.User)
	if err != nil {
		return fmt.Errorf("user: no such user on this host: %q", m.User)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("user %q: %w", m.User, err)
	}
	if uid == 0 {
		return fmt.Errorf("user %q is root: give one without rights", m.User)
	}
	m.UID, m.GID = uint32(uid), uint32(gid)
	return nil
}

// checkImages takes patterns of images of registries.
func checkImages(pattern string) error {
	if _, err := path.Match(strings.TrimSuffix(pattern, "/**"), ""); err != nil {
		return fmt.Errorf("%q is not a valid pattern", pattern)
	}
	if host, _, ok := strings.Cut(pattern, "/"); !ok || !imagename.IsReference(pattern) || host == "**" {
		return fmt.Errorf("%q names no registry: give HOST/NAME, such as \"registry.example/team/**\"", pattern)
	}
	return nil
}

// checkMirror refuses that everybody is given what the host needs credentials for.
func (c *Config) checkMirror() error {
	if !c.Mirror.Listen.IsValid() || c.Mirror.Username != "" {
		return nil
	}
	var errs []error
	for _, h := range c.Registries {
		if !c.needsCredentials(h) {
			continue
		}
		if slices.ContainsFunc(c.Mirror.Images, func(p string) bool { return mayBeOf(p, h) }) {
			errs = append(errs, fmt.Errorf("%s: mirror: images of %s need credentials, and everybody would get them "+
				"here: add username and password_file", c.Mirror.Where, h.Name))
		}
	}
	return errors.Join(errs...)
}

// needsCredentials tells whether the host shows some for a registry's images, to the registry or to a mirror of it.
func (c *Config) needsCredentials(h registry.Host) bool {
	has := func(h registry.Host) bool { return h.Username != "" || h.AuthFile != "" }
	return has(h) || slices.ContainsFunc(c.Registries, func(other registry.Host) bool {
		return has(other) && slices.ContainsFunc(h.Mirrors, func(mirror string) bool {
			name, _, _ := strings.Cut(mirror, "/")
			return imagename.Host(name) == imagename.Host(other.Name)
		})
	})
}

// mayBeOf tells whether a pattern may fit images of a registry.
func mayBeOf(pattern string, h registry.Host) bool {
	host, _, _ := strings.Cut(imagename.Canonical(pattern), "/")
	for _, name := range imagename.Aliases(imagename.Host(h.Name) + "/x") {
		if ok, err := path.Match(host, strings.TrimSuffix(name, "/x")); ok || err != nil {
			return true
		}
	}
	return false
}

// Shares tells whether an image of the host may be given to others, by its name.
func (m Mirror) Shares(name string) bool {
	ref, err := registry.ParseReference(name)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(m.Images, func(p string) bool {
		return policy.MatchImage(p, ref.Name()) || policy.MatchImage(p, ref.Identity())
	})
}

// Secrets are the password, empty for none, and the certificate, nil for none.
func (m Mirror) Secrets() (password string, pair *tls.Certificate, err error) {
	if m.PasswordFile != "" {
		if password, err = readToken(m.PasswordFile, "password"); err != nil {
			err = fmt.Errorf("%s: mirror: password_file: %w", m.Where, err)
		}
	}
	pair, cerr := readPair(m.Where+": mirror", m.CertFile, m.KeyFile)
	return password, pair, errors.Join(err, cerr)
}
