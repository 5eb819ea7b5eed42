package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A file that is signed is verified by the key beside it, and by no other; one that was changed is not.
func TestSignBlob(t *testing.T) {
	dir := t.TempDir()
	sums, key := filepath.Join(dir, "SHA256SUMS"), filepath.Join(dir, "k")
	check(t, os.WriteFile(sums, []byte("SHA256 (a) = 1\n"), 0o644))
	exits(t, 0, "keygen", "--plain", "-o", key)
	if out := exits(t, 0, "sign-blob", "--key", key+".key", sums); !strings.Contains(out, sums+".sig") {
		t.Error(out)
	}
	if out := exits(t, 0, "verify-blob", "--key", key+".pub", sums); !strings.Contains(out, "is signed by") {
		t.Error(out)
	}
	exits(t, 0, "keygen", "--plain", "-o", key+"2")
	exits(t, 1, "verify-blob", "--key", key+"2.pub", sums)
	check(t, os.WriteFile(sums, []byte("SHA256 (a) = 2\n"), 0o644))
	if out := exits(t, 1, "verify-blob", "--key", key+".pub", sums); !strings.Contains(out, "not for this content") {
		t.Error(out)
	}
	exits(t, 2, "sign-blob", sums)
	exits(t, 2, "verify-blob", sums)
	check(t, os.Remove(sums+".sig"))
	exits(t, 1, "verify-blob", "--key", key+".pub", sums)
}

func exits(t *testing.T, want int, args ...string) string {
	t.Helper()
	code, out, messages := call(t, args...)
	if code != want {
		t.Errorf("%q ends with %d, want %d: %s", args, code, want, messages)
	}
	return out + messages
}
