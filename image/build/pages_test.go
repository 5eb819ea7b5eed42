package build

import (
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/testmanual"
)

// Each Jailfile of the documentation can be built, as far as it alone tells.
func TestJailfilesInThePages(t *testing.T) {
	seen := 0
	for _, page := range testmanual.Pages(t, "../..") {
		for _, b := range testmanual.Blocks(t, page) {
			if b.Kind() != testmanual.Jailfile {
				continue
			}
			seen++
			text := b.Text
			if !strings.HasPrefix(text, "FROM ") && !strings.HasPrefix(text, "ARG ") {
				text = "FROM scratch\n" + text
			}
			file, err := Parse(page, strings.NewReader(text))
			if err == nil {
				p := &planner{file: file, secrets: map[string]Secret{"token": {}}, base: func(string, ocispec.Platform) (
					*image.Image, error) {
					return &image.Image{Manifest: &image.Manifest{SchemaVersion: 1}}, nil
				}}
				err = p.plan(t.Context())
			}
			if err != nil {
				t.Errorf("%s:%d: %v", page, b.Line, err)
			}
		}
	}
	if seen < 3 {
		t.Errorf("only %d were seen", seen)
	}
}
