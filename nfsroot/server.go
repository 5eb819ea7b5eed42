// Package nfsroot has the roots of tasks come from a server by NFS: it finds
// an image's root on the servers that a host trusts, mounts it once for all
// tasks of the image, watches it, and takes it down whatever the server does.
// The other half of it is the server: exporting images as roots.
package nfsroot

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/freejail/freejail/internal/strictjson"
)

// Port is where an NFS server listens.
const Port = 2049

// Server is a directory of roots on a server.
type Server struct {
	Host string // a name or an address
	Port int
	Path string // absolute and clean
}

// ParseServer reads nfs://server[:port]/path.
func ParseServer(text string) (Server, error) {
	u, err := url.Parse(text)
	if err != nil {
		return Server{}, fmt.Errorf("%q is not a valid URL (for example nfs://server/path): %w", text,
			errors.Unwrap(err))
	}
	fault := func(why string) (Server, error) {
		return Server{}, fmt.Errorf("%q is not a valid URL (for example nfs://server/path): %s", text, why)
	}
	s := Server{Host: u.Hostname(), Port: Port, Path: u.Path}
	switch {
	case u.Scheme != "nfs":
		return fault("it does not begin with nfs://")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return fault("it has more than a server, a port and a path")
	case s.Host == "" || len(s.Host) > 253 || strings.ContainsFunc(s.Host, notHost):
		return fault("the server's name or address is missing, or none")
	case !path.IsAbs(s.Path) || path.Clean(s.Path) != s.Path || s.Path == "/":
		return fault("the path is not an absolute, clean path below /")
	case len(s.Path) > 512 || strings.ContainsFunc(s.Path,
		func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }):
		return fault("the path is too long, or has blanks or control characters in it")
	}
	if p := u.Port(); p != "" {
		if s.Port, err = strconv.Atoi(p); err != nil || s.Port < 1 || s.Port > 65535 {
			return fault("the port is not within 1 to 65535")
		}
	}
	return s, nil
}

func notHost(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-:_", r))
}

func (s Server) String() string {
	host := s.Host
	if s.Port != Port {
		host = net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
	} else if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return "nfs://" + host + s.Path
}

// The layout of a directory of roots:
//
//	images.json           which image has which name there
//	sha256-HEX/           an image, by the digest of its OCI manifest
//	    manifest.json     that manifest, byte by byte
//	    config.json       the config that the manifest names
//	    root/             the unpacked layers
const (
	indexFile    = "images.json"
	manifestFile = "manifest.json"
	configFile   = "config.json"
	rootDir      = "root"
)

// maxMeta bounds what is read of a server's index, manifests and configs.
const maxMeta = 8 << 20

// maxDescription bounds an image's manifest, and its config, which are held while
// a task starts.
const maxDescription = 2 << 20

// metaRules are for JSON of a server.
var metaRules = strictjson.Rules{Bytes: maxMeta, Values: 1 << 16}

var validDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// dirName is the directory of an image.
func dirName(digest string) (string, error) {
	if !validDigest.MatchString(digest) {
		return "", fmt.Errorf("digest %q is not sha256: and 64 hexadecimal digits", digest)
	}
	return strings.Replace(digest, ":", "-", 1), nil
}

// Entry is one image of a directory of roots.
type Entry struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// index is the content of images.json.
type index struct {
	Images []Entry `json:"images"`
}

// digestOf is the digest that a name means, with or without :latest; empty if
// it means none.
func (x index) digestOf(name string) string {
	for _, e := range x.Images {
		if strings.TrimSuffix(e.Name, ":latest") == strings.TrimSuffix(name, ":latest") {
			return e.Digest
		}
	}
	return ""
}

// nameOf is the first name of a digest; empty if it has none.
func (x index) nameOf(digest string) string {
	for _, e := range x.Images {
		if e.Digest == digest {
			return e.Name
		}
	}
	return ""
}
