package image

import (
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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
		"this host's, not the first":   {[]ocispec.Descriptor{d("a", p("windows", arch), ""), d("b", p(second, arch), ""), d("c", p(first, arch), "")}, "", "c"},
		"the second best":              {[]ocispec.Descriptor{d("a", p(first, "vax"), ""), d("b", p(second, arch), "")}, "", "b"},
		"named before unnamed":         {[]ocispec.Descriptor{d("a", nil, ""), d("b", p(first, arch), "")}, "", "b"},
		"unnamed":                      {[]ocispec.Descriptor{d("a", p("unknown", "unknown"), ""), d("b", nil, "")}, "", "b"},
		"none":                         {[]ocispec.Descriptor{d("a", p(first, "vax"), ""), d("b", p("windows", arch), "")}, "", "there are: " + first + "/vax, windows/" + arch},
		"empty":                        {nil, "", "names no image"},
		"several, by name":             {[]ocispec.Descriptor{d("a", nil, "x:1"), d("b", nil, "y:1")}, "y:1", "b"},
		"several, by name with latest": {[]ocispec.Descriptor{d("a", nil, "x"), d("b", nil, "y:latest")}, "y", "b"},
		"several, none named":          {[]ocispec.Descriptor{d("a", nil, "x:1"), d("b", nil, "y:1")}, "z", "one of their names: x:1, y:1"},
		"attestations":                 {[]ocispec.Descriptor{attested, d("x", p("unknown", "unknown"), ""), d("b", p(second, arch), "")}, "", "b"},
		"attestations alone":           {[]ocispec.Descriptor{attested, d("x", p("unknown", "unknown"), "")}, "", "names no image"},
		"one name, its platforms":      {[]ocispec.Descriptor{d("a", p(second, arch), "x"), d("b", p(first, arch), "x:latest")}, "x", "b"},
		"one name, one platform":       {[]ocispec.Descriptor{d("a", p(first, arch), "x"), d("b", p(first, arch), "x:latest")}, "x", "several images for one platform"},
		"one name, one unnamed":        {[]ocispec.Descriptor{d("a", nil, "x"), d("b", p(first, arch), "x")}, "x", "several images for one platform"},
		"one name, not asked for":      {[]ocispec.Descriptor{d("a", nil, "x"), d("b", p(first, arch), "x")}, "", "several images for one platform"},
		"the name's, not the host's":   {[]ocispec.Descriptor{d("a", p("windows", arch), "x"), d("b", p(first, arch), "y")}, "x", "there are: windows/" + arch},
		"one with two names":           {[]ocispec.Descriptor{d("a", nil, "x:1"), d("a", nil, "y:1")}, "", "a"},
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
