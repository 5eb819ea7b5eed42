package layout

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/image"
)

// What is no archive is called so, and not by the words of what reads a tar.
func TestNotAnArchive(t *testing.T) {
	for name, text := range map[string][]byte{"text": []byte("hello\n"), "a program": bytes.Repeat([]byte("\x7fELF"), 999)} {
		file := filepath.Join(t.TempDir(), "web.tar")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenArchive(t.Context(), file, image.Limits{}, nil)
		if err == nil || !strings.Contains(err.Error(), "not an archive of an image: it is not a tar file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
