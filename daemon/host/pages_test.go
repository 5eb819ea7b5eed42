package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/freejail/freejail/internal/testmanual"
)

// A network of a job has no name.
var ofNomad = regexp.MustCompile(
	`^(plugin|plugin_dir|client|job|group|task|config|network \{|service|update|resources|template) ?`)

// Each block of a host's configuration in the documentation, and each example of one, is accepted.
func TestConfigurationsInThePages(t *testing.T) {
	seen := 0
	for _, page := range testmanual.Pages(t, "../..") {
		for _, b := range testmanual.Blocks(t, page) {
			if b.Kind() != testmanual.HCL || ofNomad.MatchString(b.Text) {
				continue
			}
			seen++
			file := filepath.Join(t.TempDir(), "freejail.hcl")
			if err := os.WriteFile(file, []byte(b.Text), 0o600); err != nil {
				t.Fatal(err)
			}
			// The keys and certificates that are named are of other hosts.
			if _, err := Check(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s:%d: %v", page, b.Line, err)
			}
		}
	}
	for _, pattern := range []string{"../../example/host/*.hcl", "../../example/nfs/*r.hcl", "../../example/*/policy.hcl"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Errorf("%s: %v: %v", pattern, files, err)
		}
		for _, file := range files {
			if doubt, err := Check(file); err != nil || doubt != nil && !errors.Is(doubt, fs.ErrNotExist) {
				t.Error(err, doubt)
			}
		}
	}
	if seen < 8 {
		t.Errorf("only %d were seen", seen)
	}
}
