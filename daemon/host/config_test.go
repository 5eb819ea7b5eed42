package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// export is a configuration with nfs { export } of these lines.
func export(lines ...string) string {
	return "nfs {\n  export {\n" + strings.Join(lines, "\n") + "\n  }\n}"
}

func TestNFSConfig(t *testing.T) {
	for text, want := range map[string]string{
		`nfs { servers = ["nfs://builder/roots", "nfs://[fd00::5]:2050/roots"] }`: "",
		`nfs { servers = ["builder:/roots"] }`:                                    "nfs://server/path",
		`nfs { version = 2 }`:                                                     "want 3 or 4",
		`nfs { minor_version = 3 }`:                                               "minor_version 3",
		"nfs {\n  version = 3\n  nconnect = 2\n}":                                 "nconnect needs version 4",
		`nfs { timeout = "soon" }`:                                                `timeout: "soon" is not a valid duration`,
		`nfs { timeout = "1ms" }`:                                                 "not within 1s",
		`nfs { read_size = "1" }`:                                                 "read_size 1",
		`nfs { upper = "disk" }`:                                                  "neither tmpfs nor local",
		`nfs { upper_size = "much" }`:                                             "upper_size",
		`nfs { lost = "-1s" }`:                                                    `lost: "-1s"`,
		`nfs { every = "1ms" }`:                                                   `every: "1ms"`,
		`storage { driver = "nfs" }`:                                              "needs nfs { servers }",
		export(`dir = "/export/roots"`, `clients = ["10.0.0.0/8", "fd00::/8", "runner.example"]`):   "",
		export(`dir = "roots"`, `clients = ["10.0.0.0/8"]`):                                         "not an absolute",
		export(`dir = "/a b"`, `clients = ["10.0.0.0/8"]`):                                          "without blanks",
		export(`dir = "/roots"`, `served_by = "nfs://efs.example/roots"`):                           "",
		export(`dir = "/roots"`, `served_by = "efs.example:/roots"`):                                "is not a valid URL",
		export(`dir = "/roots"`, `served_by = "nfs://efs.example/roots"`, `clients = ["10.0.0.5"]`): "decides about clients",
		export(`dir = "/roots"`, `served_by = "nfs://efs.example/roots"`, `v4_root = "/"`):          "names another",
		export(`dir = "/roots"`, `clients = []`):                                                    "clients is empty",
		export(`dir = "/roots"`, `clients = ["0.0.0.0/0"]`):                                         "is everyone",
		export(`dir = "/roots"`,
			`clients = ["10.0.0.1/8"]`): "not a valid network",
		export(`dir = "/roots"`,
			`clients = ["-maproot=root"]`): "not a valid network or host",
		export(`dir = "/roots"`,
			`clients = ["a b"]`): "not a valid network or host",
		export(`dir = "/roots"`, `clients = ["a"]`, `v4_root = "/srv"`): "not below v4_root",
	} {
		path := filepath.Join(t.TempDir(), "freejail.hcl")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadConfig(path)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s\n%v, want %q", text, err, want)
		}
	}
}

func TestNFSExamples(t *testing.T) {
	files, err := filepath.Glob("../../example/nfs/*.hcl")
	if err != nil || len(files) == 0 {
		t.Skip("the source is not here")
	}
	for _, f := range files {
		if strings.HasSuffix(f, ".nomad.hcl") {
			continue
		}
		if _, err := LoadConfig(f); err != nil {
			t.Error(err)
		}
		if _, err := LoadPolicy(f); err != nil {
			t.Error(err)
		}
	}
}

func TestDiskLimitsInTheConfiguration(t *testing.T) {
	for text, want := range map[string]string{
		`disk = "much"`:                        `limits: disk: "much" is not a valid size (for example 8GiB)`,
		`disk = "-1GiB"`:                       `limits: disk: "-1GiB" is not a valid size`,
		`disk_max = "99999999999999g"`:         `limits: disk_max: "99999999999999g" is too large`,
		`disk_max = "1KiB"`:                    "too small: the minimum is 1MiB",
		"disk = \"2GiB\"\ndisk_max = \"1GiB\"": `limits: disk "2GiB" is more than disk_max "1GiB"`,
		`disk_max = "1GiB"`:                    "",
		`disk = "1GiB"`:                        "",
	} {
		file := filepath.Join(t.TempDir(), "freejail.hcl")
		if err := os.WriteFile(file, fmt.Appendf(nil, "limits {\n%s\n}\n", text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadConfig(file)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
