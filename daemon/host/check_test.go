package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// What the daemon would not start with is refused by the check, too.
func TestCheck(t *testing.T) {
	for text, want := range map[string]string{
		``:                             "",
		`storage { driver = "auto" }`:  "",
		`storage { driver = "btrfs" }`: `driver "btrfs" is not supported on this system (supported: auto, `,
		`log_level = "loud"`:           `log_level "loud" is not one of trace`,
		`log_level = "off"`:            "",
		`consul {}`:                    "",
		"storage {\n  driver = \"auto\"\n\npermit {\n  ports = [\"80\"]\n}\n": `freejail.hcl:1: the block that begins here`,
		"limits {\n  disk = \"1GiB\"\n}\npermit {\n  ports = [\"80\"]":        `freejail.hcl:4: the block that begins here`,
		"consul {\n  address = \"foo bar\"\n}":                                `address "foo bar" is not an address`,
		"permit {\n  ports = \"80\n}\n":                                       `freejail.hcl:2,14-3,1: Invalid multi-line string`,
	} {
		file := filepath.Join(t.TempDir(), "freejail.hcl")
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Check(file)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// A mirror that would not start hinders no daemon.
func TestCheckOfAMirror(t *testing.T) {
	dir := t.TempDir()
	file, password := filepath.Join(dir, "freejail.hcl"), filepath.Join(dir, "password")
	text := "mirror {\n  listen = \"127.0.0.1:5001\"\n  images = [\"r.example/**\"]\n  username = \"rack\"\n" +
		"  password_file = \"" + password + "\"\n}\n"
	for name, content := range map[string]string{file: text, password: "apasswordofmanyletters\n"} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for mode, want := range map[os.FileMode]string{0o600: "", 0o644: "mirror would not start"} {
		if err := os.Chmod(password, mode); err != nil {
			t.Fatal(err)
		}
		doubt, err := Check(file)
		if err != nil || (doubt == nil) != (want == "") || doubt != nil && !strings.Contains(doubt.Error(), want) {
			t.Errorf("%o: %v, %v", mode, doubt, err)
		}
	}
}

// What is probably a mistake is told and hinders nobody.
func TestDoubts(t *testing.T) {
	for text, want := range map[string]string{
		"registry \"r.example\" {\n  auth_file = \"/nope\"\n}":                         `registry "r.example": auth_file: stat /nope: no such file`,
		"registry \"r.example\" {\n  username = \"x\"\n  password_file = \"/nope\"\n}": "password_file: stat /nope",
		"permit {\n  signer = [\"nope\"]\n  vnet = true\n}":                            `freejail.hcl:1: signer "nope": the host's file has no such`,
		"\nrequire {\n  signer = [\"team-*\", \"nope\"]\n}":                            `freejail.hcl:2: signer "nope": the host's file has no such`,
		"network \"lan\" {\n  mode = \"nat\"\n  subnet4 = \"10.0.9.0/24\"\n}\n" + "permit {\n  networks = [\"lann\", \"lan\", " +
			"\"host\", \"l*\"]\n}": `freejail.hcl:6: network "lann": no network of this name in the host configuration ` +
			`(did you mean lan?) (there are: host, none, lan)`,
		"set \"s\" {\n  networks = [\"dmz\"]\n}\npermit {\n  sets = [\"s\"]\n}\ndeny {\n  networks = [\"wan\"]\n}": `network "wan"`,
		`require { signer = ["team-*"] }`: "",
	} {
		file := filepath.Join(t.TempDir(), "freejail.hcl")
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := LoadConfig(file)
		if err != nil {
			t.Fatal(err)
		}
		f, err := NewFollower(c, hclog.NewNullLogger())
		if err != nil {
			t.Fatal(text, err)
		}
		now, err := f.Last()
		if err != nil || want == "" && now.Doubt != nil ||
			want != "" && (now.Doubt == nil || !strings.Contains(now.Doubt.Error(), want)) {
			t.Errorf("%s: %v %v, want %q", text, now.Doubt, err, want)
		}
	}
}
