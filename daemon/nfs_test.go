package daemon

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/nfsroot"
)

// deaf is a server that takes connections and never answers.
func deaf(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	return fmt.Sprintf("nfs://%s/roots", l.Addr())
}

// What has no root is told, by the reason, and nothing is left.
func TestNFSRefusals(t *testing.T) {
	dir, server := shortDir(t), deaf(t)
	c, _ := daemonAt(t, dir, fmt.Sprintf("permit {\n  nfs = true\n}\nnfs {\n  servers = [%q]\n  timeout = \"1s\"\n}\n",
		server))
	sum := "sha256:" + strings.Repeat("ab", 32)
	for _, test := range []struct {
		image, storage, code, want string
	}{
		{"web", "nfs", client.CodeUnavailable, "does not answer within 1s"},
		{"web@" + sum, "nfs", client.CodeUnavailable, "does not answer within 1s"},
		{"web", server, client.CodeUnavailable, "does not answer within 1s"},
		{"web", "nfs://other/roots", client.CodeRefused, "does not trust nfs://other/roots"},
		{"web", server + "/further", client.CodeRefused, "does not trust"},
		{"web", "nfs:other", client.CodeInvalid, "is not a valid URL"},
		{"/web.tar", "nfs", client.CodeInvalid, "not an archive"},
		{"web@sha256:ab", "nfs", client.CodeInvalid, "invalid checksum digest length"},
		{"", "nfs", client.CodeInvalid, "no image given"},
	} {
		_, err := c.Start(t.Context(), client.TaskSpec{ID: "bad", Owner: "cli", Image: test.image,
			Storage: test.storage})
		if e := client.AsError(err); err == nil || e.Code != test.code || !strings.Contains(e.Message, test.want) {
			t.Errorf("%s of %s: %v, want %s with %q", test.image, test.storage, err, test.code, test.want)
		}
		nothingLeft(t, dir)
	}
	if e, err := os.ReadDir(filepath.Join(dir, "state", "nfs")); err == nil && len(e) > 0 {
		t.Errorf("nfs: left: %v", e)
	}
	checks, err := c.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	for _, ch := range checks {
		told[ch.Name] += ch.Status + " " + ch.Detail
	}
	if !strings.Contains(told["nfs server"], "error") ||
		(nfsroot.ClientMissing() != "") != strings.Contains(told["nfs"], "error") {
		t.Errorf("doctor: %q, %q", told["nfs server"], told["nfs"])
	}
}

// A host that trusts nobody has no roots over NFS, whatever its policy says.
func TestNFSTrustsNobody(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "permit {\n  nfs = true\n}\n")
	for _, storage := range []string{"nfs", "nfs://127.0.0.1/roots"} {
		_, err := c.Start(t.Context(), client.TaskSpec{ID: "bad", Owner: "cli", Image: "web", Storage: storage})
		if err == nil || !strings.Contains(err.Error(), "trusts no server") {
			t.Errorf("%s: %v", storage, err)
		}
	}
	nothingLeft(t, dir)
}
