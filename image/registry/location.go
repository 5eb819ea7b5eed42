package registry

import (
	"fmt"
	"strings"
)

// Kind is where an image can lie.
type Kind string

// The kinds of places. Only Remote has no prefix.
const (
	Remote  Kind = "registry"
	Layout  Kind = "oci"
	Archive Kind = "oci-archive"
	Store   Kind = "store"

	DockerArchive Kind = "docker-archive" // to read from
	Dir           Kind = "dir"            // likewise
)

// Location is an image in a registry, a layout, an archive or a store.
type Location struct {
	Kind Kind
	Ref  Reference // of Remote
	Path string    // of the others
	Name string    // in a layout, an archive or a store; may be empty
}

// ParseLocation reads oci:DIR[:NAME], oci-archive:FILE[:NAME], store:DIR[:NAME],
// docker-archive:FILE[:NAME], dir:DIR or a reference. A path with a colon in it cannot be named.
func ParseLocation(s string) (Location, error) {
	for _, kind := range []Kind{Layout, Archive, Store, DockerArchive, Dir} {
		rest, ok := strings.CutPrefix(s, string(kind)+":")
		if !ok {
			continue
		}
		l := Location{Kind: kind}
		l.Path, l.Name, _ = strings.Cut(rest, ":")
		if l.Path == "" {
			return l, fmt.Errorf("%q: want %s:PATH or %s:PATH:NAME", shortened(s), kind, kind)
		}
		return l, nil
	}
	ref, err := ParseReference(strings.TrimPrefix(s, "docker://"))
	if err != nil {
		return Location{}, fmt.Errorf("%w; or oci:DIR, oci-archive:FILE, docker-archive:FILE, dir:DIR or "+
			"store:DIR, each with :NAME behind it where there are several images", err)
	}
	return Location{Kind: Remote, Ref: ref}, nil
}

func (l Location) String() string {
	if l.Kind == Remote {
		return l.Ref.String()
	}
	s := string(l.Kind) + ":" + l.Path
	if l.Name != "" {
		s += ":" + l.Name
	}
	return s
}
