package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/internal/testcert"
)

// metricsFiles are a certificate with its key and a token, in a directory of the test's.
func metricsFiles(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	testcert.Write(t, filepath.Join(dir, "cert"), filepath.Join(dir, "key"), 1)
	for name, content := range map[string][]byte{
		"token": []byte("0123456789abcdef\n"), "short": []byte("0123456789abcde\n"), "words": []byte("0123456789 abcdef"),
		"large": make([]byte, maxSecret+1), "open": []byte("0123456789abcdef")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "open"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Where the daemon would answer everybody, or nobody, the check of the configuration tells the block and its line.
func TestMetricsInTheConfiguration(t *testing.T) {
	dir := metricsFiles(t)
	secured := "tls_cert = \"DIR/cert\"\ntls_key = \"DIR/key\"\ntoken_file = \"DIR/token\"\n"
	for text, want := range map[string]string{
		`listen = "127.0.0.1:9477"`:                               "",
		`listen = "[::1]:9477"`:                                   "",
		"listen = \"127.0.0.1:9477\"\ntoken_file = \"DIR/token\"": "",
		"listen = \":9477\"\n" + secured:                          "",
		"listen = \"192.0.2.1:9477\"\n" + secured:                 "",
		``:                                   `"listen"`,
		`listen = "127.0.0.1"`:               `listen "127.0.0.1" is not ADDRESS:PORT`,
		`listen = "localhost:9477"`:          "is not ADDRESS:PORT (for example",
		`listen = "127.0.0.1:0"`:             "has no port",
		`listen = "[fe80::1%lo0]:9477"`:      "has a zone",
		`listen = ":9477"`:                   "not a loopback address: tls_cert, tls_key and token_file are",
		`listen = "0.0.0.0:9477"`:            "not a loopback address",
		`listen = "[::ffff:192.0.2.1]:9477"`: "not a loopback address",
		"listen = \"192.0.2.1:9477\"\ntoken_file = \"DIR/token\"":          `or listen = "127.0.0.1:9477"`,
		"listen = \"127.0.0.1:9477\"\ntls_cert = \"DIR/cert\"":             "tls_cert and tls_key are needed together",
		"listen = \"127.0.0.1:9477\"\ntoken_file = \"token\"":              `token_file "token" is not an absolute path`,
		"listen = \"127.0.0.1:9477\"\ntoken_file = \"DIR/none\"":           "no such file",
		"listen = \"127.0.0.1:9477\"\ntoken_file = \"DIR\"":                "it is a directory",
		"listen = \"127.0.0.1:9477\"\ntoken_file = \"/dev/zero\"":          "it is a device",
		"listen = \"127.0.0.1:9477\"\ntoken_file = \"DIR/short\"":          "15 characters, and the minimum is 16",
		"listen = \"127.0.0.1:9477\"\ntoken_file = \"DIR/words\"":          "one word of ASCII",
		"listen = \"127.0.0.1:9477\"\ntoken_file = \"DIR/large\"":          "more than 65536 bytes",
		"listen = \"127.0.0.1:9477\"\ntoken_file = \"DIR/open\"":           "open to all users of this host (mode 0644)",
		"listen = \":1\"\n" + strings.Replace(secured, "/key", "/x", 1):    "tls_key: ",
		"listen = \":1\"\n" + strings.Replace(secured, "/key", "/cert", 1): "tls_cert and tls_key: ",
		"listen = \"127.0.0.1:9477\"\ntoken = \"x\"":                       `"token"`,
	} {
		file := filepath.Join(t.TempDir(), "freejail.hcl")
		text = strings.ReplaceAll(text, "DIR", dir)
		if err := os.WriteFile(file, fmt.Appendf(nil, "\nmetrics {\n%s\n}\n", text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Check(file)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
		if err != nil && !strings.Contains(err.Error(), "freejail.hcl:") {
			t.Errorf("%s: no line in %v", text, err)
		}
	}
}
