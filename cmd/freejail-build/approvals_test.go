package main

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/approval"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/policy"
)

func keyFile(t *testing.T, name string) (*sign.PrivateKey, string) {
	t.Helper()
	private, public, err := sign.Generate(nil)
	check(t, err)
	key, err := sign.ReadPrivate(private, nil)
	check(t, err)
	file := filepath.Join(t.TempDir(), name+".pub")
	check(t, os.WriteFile(file, public, 0o644))
	return key, file
}

// Who approved what is shown, with what is known of it, and what is not.
func TestApprovalsOfAnImage(t *testing.T) {
	dir := t.TempDir()
	srv, err := registry.NewServer(dir, registry.ServerOptions{})
	check(t, err)
	web := httptest.NewServer(srv)
	defer func() {
		web.Close()
		check(t, srv.Close())
	}()
	at := strings.TrimPrefix(web.URL, "http://") + "/team/web"
	file := filepath.Join(t.TempDir(), "x.tar")
	do := func(want int, args ...string) string {
		t.Helper()
		var out, messages bytes.Buffer
		if code := run(t.Context(), args, &out, &messages); code != want {
			t.Fatalf("%v: %d, want %d: %s%s", args, code, want, &out, &messages)
		}
		return out.String()
	}
	do(0, "build", "-o", file, "--platform", "freebsd/amd64", context1(t, "FROM scratch\nWORKDIR /w\n"))
	var pushed struct{ Digest digest.Digest }
	check(t, json.Unmarshal([]byte(do(0, "--json", "push", file, at+":1")), &pushed))
	key, public := keyFile(t, "security")
	stranger, _ := keyFile(t, "stranger")
	c, err := registry.NewClient(registry.Config{})
	check(t, err)
	to, err := registry.ParseLocation(at + "@" + pushed.Digest.String())
	check(t, err)
	attach := func(by *sign.PrivateKey, d digest.Digest, reason string, issued time.Time) digest.Digest {
		a := approval.New(d, at, []policy.Request{{Privilege: policy.Allow("raw_sockets")}}, issued, issued.Add(time.Hour))
		a.By, a.Reason = "alice", reason
		doc, err := a.Sign(by)
		check(t, err)
		check(t, c.Attach(t.Context(), to, doc, registry.Approval))
		return a.ID()
	}
	has := func(out string, texts ...string) {
		t.Helper()
		for _, text := range texts {
			if !strings.Contains(out, text) {
				t.Errorf("%q is not in %s", text, out)
			}
		}
	}
	now := time.Now()
	has(do(0, "approvals", at+":1"), "no approval was found")
	do(1, "approvals", "--key", public, at+":1")
	id := attach(key, pushed.Digest, "seen \x1b[2J", now)
	if attach(key, pushed.Digest, "seen \x1b[2J", now) != id {
		t.Error("what is signed twice within a second has two IDs")
	}
	attach(key, pushed.Digest, "long ago", now.AddDate(0, 0, -1))
	lost := attach(key, digest.FromString("x"), "another", now)
	attach(stranger, pushed.Digest, "mine", now)
	out := do(0, "approvals", "--key", "security="+public, at+":1")
	has(out, "freebsd/amd64", "valid", "signed by the key of security", "by alice", `seen \u001b[2J`, "allow:raw_sockets",
		"approval "+id.String(), "it has expired", "it is for another image", "not shown: 1 document",
		"revocations by security were not looked at")
	if strings.Contains(out, "mine") || strings.Contains(out, "\x1b") {
		t.Errorf("got %s", out)
	}
	out = do(0, "approvals", at+":1")
	has(out, "NOT VERIFIED", "mine", "seen")
	if strings.Contains(out, "valid\n") || strings.Contains(out, "signed by") {
		t.Errorf("got %s", out)
	}
	list, err := approval.List{}.Next(now, approval.Revoked{Approval: id, Reason: "CVE"}).Sign(key)
	check(t, err)
	listFile := filepath.Join(t.TempDir(), "list")
	check(t, os.WriteFile(listFile, list, 0o644))
	has(do(1, "approvals", "--key", "security="+public, "--revocations", "security="+listFile, at+":1"),
		"it was revoked on", "CVE")

	// They go along with the image.
	do(0, "pull", "-o", file, at+":1")
	has(do(0, "approvals", "--key", public, file), id.String(), "valid")
	do(0, "push", file, at+"-again:1")
	has(do(0, "approvals", "--key", public, at+"-again:1"), id.String(), "valid")
	do(0, "copy", "--no-signatures", at+":1", at+"-without:1")
	do(1, "approvals", "--key", public, at+"-without:1")
	var report struct {
		Approvals []struct {
			ID       digest.Digest
			Status   string
			Requests []string
		}
		Others int
	}
	check(t, json.Unmarshal([]byte(do(0, "--json", "approvals", "--key", public, at+":1")), &report))
	if len(report.Approvals) != 3 || report.Others != 1 {
		t.Errorf("got %+v", report)
	}

	// What cannot be read, which anybody can announce, hides nothing of what can.
	check(t, os.Remove(filepath.Join(dir, "team+web", "blobs", "sha256", lost.Encoded())))
	has(do(1, "approvals", "--key", public, at+":1"), id.String(), "valid")
}
