package image

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

var onlyHex = regexp.MustCompile(`^[0-9a-f]{6,64}$`)

// DigestHint says how a digest is written where a name looks like one that is
// written otherwise; it is empty for other names.
func DigestHint(name string) string {
	if !onlyHex.MatchString(name) {
		return ""
	}
	return fmt.Sprintf(" (this is a name; a digest is written sha256:%s)", name)
}

// NotFound is an ErrNotFound for a name or digest.
func NotFound(ref string) error { return fmt.Errorf("%w: %q%s", ErrNotFound, ref, DigestHint(ref)) }

// CheckName keeps names usable as references and harmless on a terminal.
func CheckName(name string) error {
	if strings.HasPrefix(name, "sha256:") {
		return fmt.Errorf("image name %q: sha256: begins a digest, not a name", name)
	}
	plain, hex, pinned := strings.Cut(name, "@sha256:")
	if !imageName.MatchString(plain) || pinned && digest.NewDigestFromEncoded(digest.SHA256, hex).Validate() != nil {
		return fmt.Errorf("image name %q: want up to 255 letters, digits and . _ / : + -, "+
			"beginning with a letter or digit, and at most a digest behind an @", name)
	}
	return nil
}
