package image

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Volumes are the directories that a configuration names for what the program writes, as
// clean paths in their order. Its map is another tool's word for them (VOLUME of a
// Dockerfile), and not the manifest's.
func Volumes(c ocispec.ImageConfig) ([]string, error) {
	if len(c.Volumes) > maxPaths {
		return nil, fmt.Errorf("Volumes: %d paths: at most %d are allowed", len(c.Volumes), maxPaths)
	}
	var out []string
	for _, v := range slices.Sorted(maps.Keys(c.Volumes)) {
		p, err := volume(v)
		if err != nil {
			return nil, fmt.Errorf("Volumes: %q: %w", v, err)
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	if n := directories(out); n > maxDirectories {
		return nil, fmt.Errorf("Volumes: paths of %d directories: at most %d are allowed", n, maxDirectories)
	}
	return out, nil
}

func volume(v string) (string, error) {
	p := path.Clean(v)
	switch {
	case !path.IsAbs(v), p == "/", len(v) >= 1024, slices.Contains(strings.Split(v, "/"), ".."),
		strings.ContainsFunc(v, unicode.IsControl):
		return "", fmt.Errorf("not an absolute path below / without \"..\"")
	case within(p, "/dev"), within(p, "/proc"):
		return "", fmt.Errorf("/dev and /proc are the system's own")
	}
	return p, nil
}

func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }
