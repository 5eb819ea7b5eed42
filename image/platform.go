package image

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
	"github.com/freejail/freejail/internal/imagename"
)

// anyPlatform fits every image.
var anyPlatform = ocispec.Platform{}

// AnyPlatform is for Check of an image that is not to run here.
var AnyPlatform = []ocispec.Platform{anyPlatform}

// HostPlatforms are what this host takes, the best first: a FreeBSD host can
// run Linux images too, and a Linux host can at least look at FreeBSD's.
func HostPlatforms() []ocispec.Platform {
	own := ocispec.Platform{Architecture: runtime.GOARCH, Variant: hostVariant()}
	freebsd, linux := own, own
	freebsd.OS, freebsd.OSVersion, linux.OS = "freebsd", hostRelease(), "linux"
	if runtime.GOOS == "freebsd" {
		return []ocispec.Platform{freebsd, linux}
	}
	return []ocispec.Platform{linux, freebsd}
}

// Platforms are what a choice for one platform takes, the best first; the zero
// platform means any, the host's first.
func Platforms(p ocispec.Platform) []ocispec.Platform {
	if p.OS == "" && p.Architecture == "" {
		return append(HostPlatforms(), anyPlatform)
	}
	return []ocispec.Platform{p}
}

// fits tells whether an image of a platform runs on a wanted one. FreeBSD runs
// what was made for its version or an older one, and a processor what was made
// for its variant or a lower one.
func fits(p *ocispec.Platform, wanted ocispec.Platform) bool {
	if wanted.OS == "" && wanted.Architecture == "" {
		return true
	}
	return p.OS == wanted.OS && architecture(p.Architecture) == wanted.Architecture &&
		compareVersions(variant(*p), variant(wanted)) <= 0 &&
		(p.OS != "freebsd" || wanted.OSVersion == "" || compareVersions(p.OSVersion, wanted.OSVersion) <= 0)
}

// architecture is Go's name of one, which OCI's images have: some have that of a kernel.
func architecture(name string) string {
	if own := aliases[name]; own != "" {
		return own
	}
	return name
}

// better orders platforms that fit one: the newest version first, then the
// highest variant. Linux's os.version has no meaning that is agreed upon.
func better(a, b *ocispec.Platform) int {
	order := 0
	if a.OS == "freebsd" && b.OS == "freebsd" {
		order = compareVersions(b.OSVersion, a.OSVersion)
	}
	return cmp.Or(order, compareVersions(variant(*b), variant(*a)))
}

// variant is a processor's in digits; the plain one may be left out.
func variant(p ocispec.Platform) string {
	if v := strings.TrimPrefix(p.Variant, "v"); v != "" {
		return v
	}
	return map[string]string{"amd64": "1", "arm64": "8"}[architecture(p.Architecture)]
}

// compareVersions compares "14.2" or "14.2-RELEASE-p1" by their numbers. What
// is missing is 0, what is no number is newer than any.
func compareVersions(a, b string) int {
	parts := func(s string) []string {
		s, _, _ = strings.Cut(s, "-")
		return strings.Split(s, ".")
	}
	as, bs := parts(a), parts(b)
	number := func(list []string, i int) uint64 {
		if i >= len(list) || list[i] == "" {
			return 0
		}
		n, err := strconv.ParseUint(list[i], 10, 32)
		if err != nil {
			return math.MaxUint64
		}
		return n
	}
	for i := range max(len(as), len(bs)) {
		if c := cmp.Compare(number(as, i), number(bs, i)); c != 0 {
			return c
		}
	}
	return 0
}

func fitsAny(p *ocispec.Platform, wanted []ocispec.Platform) bool {
	for _, w := range wanted {
		if fits(p, w) {
			return true
		}
	}
	return false
}

// PlatformText shows a platform; nil is none.
func PlatformText(p *ocispec.Platform) string {
	if p == nil {
		return "no named platform"
	}
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	if p.OSVersion != "" {
		text += " " + p.OSVersion
	}
	return text
}

func platformsText(list []ocispec.Platform) string {
	var out []string
	for i := range list {
		if list[i].OS != "" {
			p := ocispec.Platform{OS: list[i].OS, Architecture: list[i].Architecture, OSVersion: list[i].OSVersion}
			out = append(out, PlatformText(&p))
		}
	}
	return strings.Join(out, " or ")
}

// Annotation in which docker and containerd keep the whole reference where the
// other annotation has only the tag.
const fullName = "io.containerd.image.name"

// OwnName is the name that an index has for an entry; empty is none.
func OwnName(d ocispec.Descriptor) string {
	if n := d.Annotations[fullName]; n != "" {
		return n
	}
	return d.Annotations[ocispec.AnnotationRefName]
}

// IsArtifact knows what lies beside images in an index and is none, such as a
// signature or what a builder attests.
func IsArtifact(d ocispec.Descriptor) bool {
	return d.ArtifactType != "" || d.Annotations[referenceType] != "" || attachedTag.MatchString(OwnName(d)) ||
		d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown"
}

// referenceType is the annotation that BuildKit gives what refers to an image.
const referenceType = "vnd.docker.reference.type"

// attachedTag is how cosign names what it attaches to a digest, and the OCI
// distribution specification the list of a digest's referrers.
var attachedTag = regexp.MustCompile(`(^|:)sha256-[0-9a-f]{64}(\.[a-z]+)?$`)

// Choose takes the entry of an index that fits the first of the wanted platforms
// for which there is any, and runs best there; of several names the one asked
// for, where there is one. An entry that names no platform comes after those that
// do: only its config can tell. Errors name what there is.
func Choose(list []ocispec.Descriptor, wanted []ocispec.Platform, name string) (ocispec.Descriptor, error) {
	unnamed := func(d ocispec.Descriptor) bool { return d.Platform == nil || d.Platform.OS == "" }
	list, err := named(slices.DeleteFunc(slices.Clone(list), IsArtifact), name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	for _, w := range wanted {
		fit := slices.DeleteFunc(slices.Clone(list), func(d ocispec.Descriptor) bool {
			return unnamed(d) || !fits(d.Platform, w)
		})
		slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int { return better(a.Platform, b.Platform) })
		d, ok, err := only(fit, name)
		if ok || err != nil {
			return d, err
		}
	}
	rest := slices.DeleteFunc(slices.Clone(list), func(d ocispec.Descriptor) bool { return !unnamed(d) })
	d, ok, err := only(rest, name)
	if ok || err != nil {
		return d, err
	}
	var have []string
	for _, d := range list {
		have = append(have, PlatformText(d.Platform))
	}
	if len(have) == 0 {
		return d, errors.New("image index: it names no image")
	}
	return d, fmt.Errorf("there is no image for %s; there are: %s", platformsText(wanted), strings.Join(have, ", "))
}

// named are the entries of a name if there are any, else all. A name that several
// have is an error unless their platforms tell them apart: others would take
// another one for it.
func named(list []ocispec.Descriptor, name string) ([]ocispec.Descriptor, error) {
	groups := map[string][]ocispec.Descriptor{}
	for _, d := range list {
		if own := OwnName(d); own != "" {
			key := strings.TrimSuffix(imagename.Canonical(own), ":latest")
			groups[key] = append(groups[key], d)
		}
	}
	if own := groups[strings.TrimSuffix(imagename.Canonical(name), ":latest")]; name != "" && len(own) > 0 {
		return own, distinct(own)
	}
	for _, g := range groups {
		if err := distinct(g); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// CheckNames is an error where a name of an index is ambiguous to who chooses an image.
func CheckNames(list []ocispec.Descriptor) error {
	_, err := named(slices.DeleteFunc(slices.Clone(list), IsArtifact), "")
	return err
}

// distinct is an error where entries of one name are several images that their
// platforms do not tell apart.
func distinct(list []ocispec.Descriptor) error {
	seen := map[string]bool{}
	for _, d := range list {
		if !slices.ContainsFunc(list, func(o ocispec.Descriptor) bool { return o.Digest != d.Digest }) {
			return nil
		}
		platform := PlatformText(d.Platform)
		if d.Platform == nil || d.Platform.OS == "" || seen[platform] {
			return fmt.Errorf("the name %q is ambiguous: several images for one platform have it: keep one, such as %s",
				OwnName(d), d.Digest)
		}
		seen[platform] = true
	}
	return nil
}

// Only takes the one entry that a name, or without one the index, means. Several
// for different platforms are an error too.
func Only(list []ocispec.Descriptor, name string) (ocispec.Descriptor, error) {
	list, err := named(list, name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d, _, err := only(list, name)
	if err == nil && slices.ContainsFunc(list, func(o ocispec.Descriptor) bool { return o.Digest != d.Digest }) {
		err = fmt.Errorf("the name %q is ambiguous: images for several platforms have it: give the digest of one",
			OwnName(d))
	}
	return d, err
}

// only is the first entry. Where several differ by their names, the name must
// tell which.
func only(list []ocispec.Descriptor, name string) (found ocispec.Descriptor, ok bool, err error) {
	var names []string
	several := false
	for _, d := range list {
		own := OwnName(d)
		if name != "" && imagename.Same(own, name) {
			return d, true, nil
		}
		if ok && d.Digest != found.Digest && own != OwnName(found) {
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

// MaxIndexes bounds indexes within each other.
const MaxIndexes = 4

// IndexReader gives an index by its descriptor, with its text.
type IndexReader func(ocispec.Descriptor) (idx ocispec.Index, text []byte, err error)

// IndexesOf reads what get gives, verified.
func IndexesOf(get func(ocispec.Descriptor) ([]byte, error)) IndexReader {
	return func(d ocispec.Descriptor) (idx ocispec.Index, text []byte, err error) {
		if text, err = get(d); err != nil {
			return idx, nil, err
		}
		if idx, err = document.ReadIndex(text, d.MediaType); err != nil {
			err = fmt.Errorf("image index: %w", err)
		}
		return idx, text, err
	}
}

// Narrow goes from an index to the one of its images that Choose takes, by way of
// the indexes that it returns. get gives an index by its descriptor, verified. own
// is the name that the first index to have one gives the image. What is an image at
// once is returned as it is.
func Narrow(get IndexReader, d ocispec.Descriptor, wanted []ocispec.Platform, name string) (
	_ ocispec.Descriptor, own string, indexes [][]byte, err error) {
	left := int64(document.MaxBytes)
	for document.IsIndex(d.MediaType) {
		if len(indexes) == MaxIndexes {
			return d, "", nil, errors.New("image index: too many indexes within each other")
		}
		if left -= d.Size; left < 0 {
			return d, "", nil, fmt.Errorf("image index: those within each other are larger than %d bytes",
				document.MaxBytes)
		}
		idx, b, err := get(d)
		if err != nil {
			return d, "", nil, err
		}
		if d, err = Choose(idx.Manifests, wanted, name); err != nil {
			return d, "", nil, err
		}
		if err := document.CheckDigest(d.Digest); err != nil {
			return d, "", nil, fmt.Errorf("image index: %w", err)
		}
		if err := document.CheckType(d.MediaType); err != nil {
			return d, "", nil, fmt.Errorf("image index: %w", err)
		}
		own, indexes = cmp.Or(own, OwnName(d)), append(indexes, b)
	}
	return d, own, indexes, nil
}
