// Package registry moves images between registries, OCI layouts, archives and
// the store, and serves a directory as a registry.
package registry

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/internal/imagename"
)

// Reference names an image in a registry.
type Reference struct {
	Host       string // host or host:port, in lower case and without HTTPS' own port
	Repository string // path in the registry, such as team/web
	Tag        string // "latest" where not a valid tag or digest was given
	Digest     digest.Digest
}

// The grammar of names is that of the OCI distribution specification, that of
// hosts the one of DNS.
var (
	repositoryName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagName        = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	hostName       = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
)

// maxReference bounds a reference without its digest, as names of the store are
// bounded.
const maxReference = 255

// IsReference tells whether a text names a registry: its first part is
// localhost, or has a dot or a port in it.
func IsReference(s string) bool { return imagename.IsReference(s) }

// ParseReference reads registry.example/team/web:tag, with or without
// @sha256:..., which then counts. There is no registry by default, and nothing
// is added but the tag latest. The host becomes the one way of writing it.
func ParseReference(s string) (Reference, error) {
	bad := func(format string, args ...any) (Reference, error) {
		return Reference{}, fmt.Errorf("image reference %q: "+format, append([]any{shortened(s)}, args...)...)
	}
	if at := strings.IndexByte(s, '@'); at >= 0 && at < strings.IndexByte(s, '/') {
		return Reference{}, errors.New("image reference: @ in the host: credentials are not allowed in a reference")
	}
	rest, pin, pinned := strings.Cut(s, "@")
	if len(rest) > maxReference {
		return bad("it is longer than %d characters", maxReference)
	}
	host, path, slash := strings.Cut(rest, "/")
	if !slash || !IsReference(s) {
		return bad("no registry host: want HOST/NAME:TAG, such as registry.example/web:1.0")
	}
	r := Reference{Host: host, Repository: path}
	if i := strings.LastIndexByte(path, ':'); i >= 0 {
		r.Repository, r.Tag = path[:i], path[i+1:]
		if !tagName.MatchString(r.Tag) {
			return bad("%q is not a valid tag: want up to 128 of A-Z a-z 0-9 _ . -, not beginning with . or -", r.Tag)
		}
	}
	if err := checkHost(r.Host); err != nil {
		return bad("%w", err)
	}
	r.Host = imagename.Host(r.Host)
	if !repositoryName.MatchString(r.Repository) {
		return bad("%q is not a valid repository name: "+
			"want lower-case letters and digits, within a part joined by . _ __ or -", r.Repository)
	}
	if pinned {
		r.Digest = digest.Digest(pin)
		if r.Digest.Validate() != nil || r.Digest.Algorithm() != digest.SHA256 {
			return bad("what follows @ is not sha256: and 64 hexadecimal digits")
		}
	} else if r.Tag == "" {
		r.Tag = "latest"
	}
	return r, nil
}

func shortened(s string) string {
	if len(s) > 400 {
		return s[:400] + "..."
	}
	return s
}

// checkHost takes host or host:port. One host has one way of writing it.
func checkHost(s string) error {
	host, port, has := strings.Cut(s, ":")
	if !hostName.MatchString(host) || len(host) > 253 {
		if hostName.MatchString(strings.ToLower(host)) {
			return fmt.Errorf("write the host %q in lower case", host)
		}
		return fmt.Errorf("%q is not a valid host name or IPv4 address", host)
	}
	if !has {
		return nil
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("%q is not a valid port", port)
	}
	return nil
}

// Name is the image's name in the store: with the digest where there is one,
// else with the tag.
func (r Reference) Name() string {
	if r.Digest != "" {
		return r.Identity() + "@" + r.Digest.String()
	}
	return r.Identity() + ":" + r.Tag
}

// Identity is host and repository: what a signature is bound to.
func (r Reference) Identity() string { return r.Host + "/" + r.Repository }

// String is the reference with its tag.
func (r Reference) String() string {
	s := r.Identity()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// version is what a registry is asked for.
func (r Reference) version() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}
