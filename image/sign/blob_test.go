package sign

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func blobKeys(t *testing.T) (*PrivateKey, *PublicKey, []byte) {
	t.Helper()
	private, public, err := Generate(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ReadPrivate(private, nil)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ReadPublic(public)
	if err != nil {
		t.Fatal(err)
	}
	return key, pub, public
}

func TestBlob(t *testing.T) {
	key, pub, _ := blobKeys(t)
	_, other, _ := blobKeys(t)
	for _, text := range []string{"", "SHA256 (a) = 1\n", strings.Repeat("x", 2*maxStatement), `{"type":"bom"}`,
		`{"a":1}`} {
		sig, err := key.SignBlob(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if again, err := key.SignBlob(strings.NewReader(text)); err != nil || again != sig {
			t.Errorf("not the same signature again: %v", err)
		}
		must(t, pub.VerifyBlob(strings.NewReader(text), sig+"\n"))
		for name, err := range map[string]error{
			"another content":    pub.VerifyBlob(strings.NewReader(text+" "), sig),
			"another key":        other.VerifyBlob(strings.NewReader(text), sig),
			"not a signature":    pub.VerifyBlob(strings.NewReader(text), "x"),
			"no signature":       pub.VerifyBlob(strings.NewReader(text), ""),
			"a cut off one":      pub.VerifyBlob(strings.NewReader(text), sig[:40]),
			"a statement signed": pub.VerifyBlob(strings.NewReader(`{"critical":{}}`), sig),
		} {
			if err == nil {
				t.Errorf("%.20q: %s is accepted", text, name)
			}
		}
	}
}

// The signature of a file cannot be made to be one of an image.
func TestBlobIsNoStatement(t *testing.T) {
	key, pub, _ := blobKeys(t)
	s, err := key.Sign(Statement{"registry.example/web", "sha256:" + "ab"})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(s.Payload), " " + string(s.Payload) + "\n", `{"CRITICAL": {}}`,
		`{"type":"freejail approval v1"}`, `{"type":"freejail revocations v1","x":"` + strings.Repeat("x", 1<<20) + `"}`} {
		if sig, err := key.SignBlob(strings.NewReader(text)); err == nil || sig != "" {
			t.Errorf("signed: %s", text)
		}
		if pub.VerifyBlob(strings.NewReader(text), base64.StdEncoding.EncodeToString(s.Signature)) == nil {
			t.Errorf("accepted: %s", text)
		}
	}
}

// Who has no freejail yet verifies with what FreeBSD's base has.
func TestBlobByOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("there is no openssl")
	}
	key, _, public := blobKeys(t)
	sig, err := key.SignBlob(strings.NewReader("content"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(sig)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, b := range map[string][]byte{"pub": public, "sig": raw, "file": []byte("content")} {
		must(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	cmd := exec.Command(openssl, "dgst", "-sha256", "-verify", "pub", "-signature", "sig", "file")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
