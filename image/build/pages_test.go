package build

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/testmanual"
)

// Each Jailfile of the documentation and the examples can be built, as far as it alone tells.
func TestJailfilesInThePages(t *testing.T) {
	seen := 0
	try := func(name, text string) {
		t.Helper()
		seen++
		file, err := Parse(name, strings.NewReader(text))
		if err == nil {
			p := &planner{file: file, secrets: map[string]Secret{"token": {}}, base: func(string, ocispec.Platform) (
				*image.Image, error) {
				return &image.Image{Manifest: &image.Manifest{SchemaVersion: 1}}, nil
			}}
			err = p.plan(t.Context())
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, page := range testmanual.Pages(t, "../..") {
		for _, b := range testmanual.Blocks(t, page) {
			if b.Kind() != testmanual.Jailfile {
				continue
			}
			text := b.Text
			if !strings.HasPrefix(text, "FROM ") && !strings.HasPrefix(text, "ARG ") {
				text = "FROM scratch\n" + text
			}
			try(fmt.Sprintf("%s:%d", page, b.Line), text)
		}
	}
	files, err := filepath.Glob("../../example/*/Jailfile*")
	if err != nil || len(files) == 0 {
		t.Skip("the examples are not here")
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		try(file, string(text))
	}
	if seen < 8 {
		t.Errorf("only %d were seen", seen)
	}
}
