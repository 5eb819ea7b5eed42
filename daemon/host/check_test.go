package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the daemon would not start with is refused by the check, too.
func TestCheck(t *testing.T) {
	for text, want := range map[string]string{
		``:                                     "",
		`storage { driver = "auto" }`:          "",
		`storage { driver = "btrfs" }`:         `driver "btrfs" is not supported on this system (supported: auto, `,
		`log_level = "loud"`:                   `log_level "loud" is not one of trace`,
		`log_level = "off"`:                    "",
		`consul {}`:                            `consul: address "" is not an address`,
		"consul {\n  address = \"foo bar\"\n}": `address "foo bar" is not an address`,
		"registry \"r.example\" {\n  auth_file = \"/nope\"\n}":                         `registry "r.example": auth_file: stat /nope: no such file`,
		"registry \"r.example\" {\n  username = \"x\"\n  password_file = \"/nope\"\n}": "password_file: stat /nope",
		"permit {\n  signer = [\"nope\"]\n  vnet = true\n}":                            `freejail.hcl:1: signer "nope": the host's file has no such`,
		"\nrequire {\n  signer = [\"team-*\", \"nope\"]\n}":                            `freejail.hcl:2: signer "nope": the host's file has no such`,
		`require { signer = ["team-*"] }`:                                              "",
		`permit { mounts = ["ext4:/x"] }`:                                              `freejail.hcl:1: permit: mounts: "ext4:/x": a task can mount nullfs, tmpfs`,
	} {
		file := filepath.Join(t.TempDir(), "freejail.hcl")
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Check(file)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
