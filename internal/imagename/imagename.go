// Package imagename knows when two names mean one image.
package imagename

import "strings"

// Canonical is the one way of writing an image's name, or a pattern of names:
// its registry's host is in lower case, and without the port of HTTPS. A name
// without a registry is as it is.
func Canonical(name string) string {
	host, rest, ok := cut(name)
	if !ok {
		return name
	}
	return Host(host) + "/" + rest
}

// Host is the one way of writing a registry's host, with or without a port.
// Docker's own registry answers to several.
func Host(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ":443")
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		return "docker.io"
	}
	return host
}

// Aliases are all names that may mean the same image: with and without the port
// of HTTPS or of HTTP, whichever the host's registry speaks. The first is the
// canonical one.
func Aliases(name string) []string {
	name = Canonical(name)
	host, rest, ok := cut(name)
	if !ok {
		return []string{name}
	}
	bare := strings.TrimSuffix(host, ":80")
	if strings.Contains(bare, ":") {
		return []string{name}
	}
	out := []string{name}
	for _, h := range []string{bare, bare + ":80", bare + ":443"} {
		if h != host {
			out = append(out, h+"/"+rest)
		}
	}
	return out
}

// Same tells whether two names mean one image; the tag latest may be left out.
func Same(a, b string) bool {
	return strings.TrimSuffix(Canonical(a), ":latest") == strings.TrimSuffix(Canonical(b), ":latest")
}

// IsReference tells whether a name names a registry: its first part is localhost,
// or has a dot or a port in it.
func IsReference(name string) bool {
	_, _, ok := cut(name)
	return ok
}

// Repository is a name without its tag and its digest.
func Repository(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i]
	}
	return name
}

func cut(name string) (host, rest string, ok bool) {
	host, rest, ok = strings.Cut(name, "/")
	return host, rest, ok && (strings.EqualFold(host, "localhost") || strings.ContainsAny(host, ".:"))
}
