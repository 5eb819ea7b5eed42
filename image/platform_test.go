package image

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image/document"
)

func TestChoiceOfPlatform(t *testing.T) {
	arch := runtime.GOARCH
	p := func(os, arch string) *ocispec.Platform { return &ocispec.Platform{OS: os, Architecture: arch} }
	d := func(n string, p *ocispec.Platform, name string) ocispec.Descriptor {
		out := ocispec.Descriptor{Digest: digest.FromString(n), Platform: p}
		if name != "" {
			out.Annotations = map[string]string{ocispec.AnnotationRefName: name}
		}
		return out
	}
	first, second := HostPlatforms()[0].OS, HostPlatforms()[1].OS
	attested := d("att", p(first, arch), "")
	attested.Annotations = map[string]string{referenceType: "attestation-manifest"}
	for name, c := range map[string]struct {
		list []ocispec.Descriptor
		ask  string
		want string // what its digest is of, or the error
	}{
		"this host's, not the first": {[]ocispec.Descriptor{d("a", p("windows", arch), ""),
			d("b", p(second, arch), ""), d("c", p(first, arch), "")}, "", "c"},
		"the second best": {[]ocispec.Descriptor{d("a", p(first, "vax"), ""), d("b", p(second, arch), "")},
			"", "b"},
		"named before unnamed": {[]ocispec.Descriptor{d("a", nil, ""), d("b", p(first, arch), "")}, "", "b"},
		"unnamed": {[]ocispec.Descriptor{d("a", p("unknown", "unknown"), ""), d("b", nil, "")}, "",
			"b"},
		"none": {[]ocispec.Descriptor{d("a", p(first, "vax"), ""), d("b", p("windows", arch),
			"")}, "", "there are: " + first + "/vax, windows/" + arch},
		"empty":                        {nil, "", "names no image"},
		"several, by name":             {[]ocispec.Descriptor{d("a", nil, "x:1"), d("b", nil, "y:1")}, "y:1", "b"},
		"several, by name with latest": {[]ocispec.Descriptor{d("a", nil, "x"), d("b", nil, "y:latest")}, "y", "b"},
		"several, none named": {[]ocispec.Descriptor{d("a", nil, "x:1"), d("b", nil, "y:1")}, "z",
			"one of their names: x:1, y:1"},
		"attestations": {[]ocispec.Descriptor{attested, d("x", p("unknown", "unknown"), ""),
			d("b", p(second, arch), "")}, "", "b"},
		"attestations alone": {[]ocispec.Descriptor{attested, d("x", p("unknown", "unknown"), "")}, "",
			"names no image"},
		"one name, its platforms": {[]ocispec.Descriptor{d("a", p(second, arch), "x"),
			d("b", p(first, arch), "x:latest")}, "x", "b"},
		"one name, one platform": {[]ocispec.Descriptor{d("a", p(first, arch), "x"),
			d("b", p(first, arch), "x:latest")}, "x", "several images for one platform"},
		"one name, one unnamed": {[]ocispec.Descriptor{d("a", nil, "x"), d("b", p(first, arch), "x")}, "x",
			"several images for one platform"},
		"one name, not asked for": {[]ocispec.Descriptor{d("a", nil, "x"), d("b", p(first, arch), "x")}, "",
			"several images for one platform"},
		"the name's, not the host's": {[]ocispec.Descriptor{d("a", p("windows", arch), "x"),
			d("b", p(first, arch), "y")}, "x", "there are: windows/" + arch},
		"one with two names": {[]ocispec.Descriptor{d("a", nil, "x:1"), d("a", nil, "y:1")}, "", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Choose(c.list, HostPlatforms(), c.ask)
			if err != nil {
				wantError(t, err, c.want)
			} else if got.Digest != digest.FromString(c.want) {
				t.Errorf("another was chosen: %+v", got)
			}
		})
	}
}

// Indexes within each other are followed to one image, up to bounds.
func TestNarrow(t *testing.T) {
	docs := map[digest.Digest][]byte{}
	get := func(d ocispec.Descriptor) ([]byte, error) { return docs[d.Digest], nil }
	index := func(of ocispec.Descriptor) ocispec.Descriptor {
		b := []byte(fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
			of.MediaType, of.Digest, of.Size))
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(b),
			Size: int64(len(b))}
		docs[d.Digest] = b
		return d
	}
	img := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("image"), Size: 5}
	root := img
	for n := range MaxIndexes + 1 {
		got, _, indexes, err := Narrow(IndexesOf(get), root, HostPlatforms(), "")
		if err != nil || got.Digest != img.Digest || len(indexes) != n {
			t.Errorf("by way of %d indexes: %v by %d, %v", n, got.Digest, len(indexes), err)
		}
		root = index(root)
	}
	_, _, _, err := Narrow(IndexesOf(get), root, HostPlatforms(), "")
	wantError(t, err, "too many indexes")
	root = index(img)
	root.Size = document.MaxBytes + 1
	_, _, _, err = Narrow(IndexesOf(get), root, HostPlatforms(), "")
	wantError(t, err, "larger than")
	img.MediaType = "text/html"
	_, _, _, err = Narrow(IndexesOf(get), index(img), HostPlatforms(), "")
	wantError(t, err, "neither an image manifest nor an index")
}

// Some tools write what a kernel calls a processor.
func TestArchitecturesByOtherNames(t *testing.T) {
	for name, own := range map[string]string{"x86_64": "amd64", "aarch64": "arm64", "amd64": "amd64"} {
		img := &Image{Config: ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: name}}}
		wanted := []ocispec.Platform{{OS: "linux", Architecture: own}}
		if err := img.Check(wanted, Limits{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wanted[0].Architecture = "riscv64"
		wantError(t, img.Check(wanted, Limits{}), "linux/"+name)
	}
}

// What is said of a platform is checked, in the words of Go and of kernels.
func TestParsePlatform(t *testing.T) {
	for text, want := range map[string]string{"freebsd/amd64": "freebsd/amd64", "FreeBSD/aarch64": "freebsd/arm64",
		"linux/x86_64": "linux/amd64", "linux/amd64/v3": "linux/amd64/v3", "linux/arm/v7": "linux/arm/v7"} {
		if p, err := ParsePlatform(text); err != nil || PlatformText(&p) != want {
			t.Errorf("%s: %+v %v", text, p, err)
		}
	}
	for _, text := range []string{"", "amd64", "freebsd/", "/amd64", "freebsd/amd65", "linux/amd64/v9", "linux/amd64/v1/x",
		"plan9/amd64"} {
		if p, err := ParsePlatform(text); err == nil {
			t.Errorf("%q is taken: %+v", text, p)
		}
	}
	if err := CheckPlatform(ocispec.Platform{OS: "linux", Architecture: "x86_64"}); err != nil {
		t.Error(err)
	}
}
