package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// anyPlatform fits every image.
var anyPlatform = ocispec.Platform{}

// hostPlatforms are what this host takes, the best first: a FreeBSD host can
// run Linux images too, and a Linux host can at least look at FreeBSD's.
func hostPlatforms() []ocispec.Platform {
	first, second := "linux", "freebsd"
	if runtime.GOOS == "freebsd" {
		first, second = second, first
	}
	return []ocispec.Platform{{OS: first, Architecture: runtime.GOARCH}, {OS: second, Architecture: runtime.GOARCH}}
}

// wantedPlatforms are what a tool asks for by one; zero is any, the host's first.
func wantedPlatforms(p ocispec.Platform) []ocispec.Platform {
	if p.OS == "" && p.Architecture == "" {
		return append(hostPlatforms(), anyPlatform)
	}
	return []ocispec.Platform{p}
}

func fits(p *ocispec.Platform, wanted ocispec.Platform) bool {
	return wanted.OS == "" && wanted.Architecture == "" || p.OS == wanted.OS && p.Architecture == wanted.Architecture
}

func fitsAny(p *ocispec.Platform, wanted []ocispec.Platform) bool {
	for _, w := range wanted {
		if fits(p, w) {
			return true
		}
	}
	return false
}

func platformText(p *ocispec.Platform) string {
	if p == nil {
		return "no named platform"
	}
	return p.OS + "/" + p.Architecture
}

func platformsText(list []ocispec.Platform) string {
	var out []string
	for i := range list {
		if list[i].OS != "" {
			out = append(out, platformText(&list[i]))
		}
	}
	return strings.Join(out, " or ")
}

// Annotation in which docker and containerd keep the whole reference where the
// other annotation has only the tag.
const fullName = "io.containerd.image.name"

func ownName(d ocispec.Descriptor) string {
	if n := d.Annotations[fullName]; n != "" {
		return n
	}
	return d.Annotations[refName]
}

// find goes from a layout's index to the one image that is wanted, and to the
// name that the layout gives it.
func (in *source) find(wanted []ocispec.Platform, name string) (d ocispec.Descriptor, own string, err error) {
	b, err := readSmall(in.root, ocispec.ImageIndexFile)
	if err != nil {
		return d, "", fmt.Errorf("%s is no OCI layout or oci-archive: %w", in.path, err)
	}
	for range 4 {
		var idx ocispec.Index
		if err := json.Unmarshal(b, &idx); err != nil {
			return d, "", fmt.Errorf("image index: %w", err)
		}
		if d, err = choose(idx.Manifests, wanted, name); err != nil {
			return d, "", err
		}
		if err := checkDigest(d.Digest); err != nil {
			return d, "", fmt.Errorf("image index: %w", err)
		}
		if own == "" {
			own = ownName(d)
		}
		switch d.MediaType {
		case ocispec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json":
			return d, own, nil
		case ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.list.v2+json":
			if b, err = in.smallBlob(d); err != nil {
				return d, "", fmt.Errorf("image index: %w", err)
			}
		default:
			return d, "", fmt.Errorf("image index: %q is neither an image manifest nor an index", d.MediaType)
		}
	}
	return d, "", errors.New("image index: too many indexes within each other")
}

// choose takes the first wanted platform that there is. An entry that names no
// platform comes after those that do: only its config can tell.
func choose(list []ocispec.Descriptor, wanted []ocispec.Platform, name string) (ocispec.Descriptor, error) {
	unnamed := func(d ocispec.Descriptor) bool { return d.Platform == nil || d.Platform.OS == "" }
	for _, w := range wanted {
		d, ok, err := only(list, name, func(d ocispec.Descriptor) bool { return !unnamed(d) && fits(d.Platform, w) })
		if ok || err != nil {
			return d, err
		}
	}
	d, ok, err := only(list, name, unnamed)
	if ok || err != nil {
		return d, err
	}
	var have []string
	for _, d := range list {
		have = append(have, platformText(d.Platform))
	}
	if len(have) == 0 {
		return d, errors.New("image index: it names no image")
	}
	return d, fmt.Errorf("there is no image for %s; there are: %s", platformsText(wanted), strings.Join(have, ", "))
}

// only is the first entry that fits. Where several differ by their names, the
// name must tell which.
func only(list []ocispec.Descriptor, name string, fits func(ocispec.Descriptor) bool) (found ocispec.Descriptor, ok bool, err error) {
	var names []string
	several := false
	for _, d := range list {
		if !fits(d) {
			continue
		}
		own := ownName(d)
		if name != "" && sameName(own, name) {
			return d, true, nil
		}
		if ok && d.Digest != found.Digest && own != ownName(found) {
			several = true
		}
		if !ok {
			found, ok = d, true
		}
		names = append(names, own)
	}
	if several {
		err = fmt.Errorf("there are several images: import by one of their names: %s", strings.Join(names, ", "))
	}
	return found, ok, err
}
