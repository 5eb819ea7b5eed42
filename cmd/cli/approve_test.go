package cli

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/approval"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/testimage"
	"github.com/freejail/freejail/internal/testprog"
)

// fleet is a registry with an image, and the files of an approver's keys.
type fleet struct {
	*testing.T
	at     string // HOST/NAME
	digest digest.Digest
	dir    string
	public *sign.PublicKey
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	srv, err := registry.NewServer(t.TempDir(), registry.ServerOptions{})
	must(t, err)
	web := httptest.NewServer(srv)
	t.Cleanup(func() {
		web.Close()
		must(t, srv.Close())
	})
	f := &fleet{T: t, at: strings.TrimPrefix(web.URL, "http://") + "/team/prog", dir: t.TempDir()}
	path, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "prog", Cmd: []string{"x"},
		Manifest: `{"schemaVersion":1,"requires":{"allow":["raw_sockets"],"mounts":[{"type":"tmpfs","target":"/tmp"}]}}`})
	must(t, err)
	c, err := registry.NewClient(registry.Config{})
	must(t, err)
	to, err := registry.ParseLocation(f.at + ":1")
	must(t, err)
	done, err := c.Copy(t.Context(), registry.Location{Kind: registry.Archive, Path: path}, to, registry.CopyOptions{})
	must(t, err)
	f.digest = done.Digest
	private, public, err := sign.Generate([]byte("secret"))
	must(t, err)
	must(t, os.WriteFile(f.dir+"/key", private, 0o600))
	f.public, err = sign.ReadPublic(public)
	must(t, err)
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// do runs the command line without a daemon.
func (f *fleet) do(password string, args ...string) (out, said string, failed bool) {
	f.Helper()
	cmd := testprog.Command(asCLI, args...)
	cmd.Env = append(cmd.Env, "FREEJAIL_SOCKET="+f.dir+"/none", "FREEJAIL_KEY_PASSWORD="+password)
	var messages strings.Builder
	cmd.Stderr = &messages
	b, err := cmd.Output()
	return string(b), messages.String(), err != nil
}

func (f *fleet) refuses(want string, args ...string) {
	f.Helper()
	if out, said, failed := f.do("secret", args...); !failed || out != "" || !strings.Contains(said, want) {
		f.Errorf("%q: got %q, %q, want %q", args, out, said, want)
	}
}

// An approval is signed of a digest, for a time and with a reason; what is signed is shown.
func TestApproveSigned(t *testing.T) {
	f := newFleet(t)
	pinned := f.at + "@" + f.digest.String()
	approve := func(more ...string) []string {
		return append([]string{"--json", "policy", "approve", "--sign", f.dir + "/key"}, more...)
	}
	f.refuses("--sign needs the digest that you have looked at, as `freejail-build inspect "+f.at+":1` shows it",
		approve(f.at+":1", "--reason", "x", "--expires", "1h")...)
	f.refuses("--sign needs --expires", approve(pinned, "--reason", "x")...)
	f.refuses("--sign needs --reason", approve(pinned, "--expires", "1h")...)
	f.refuses("not for approvals of a fleet", approve(pinned, "--expires", "1h", "--reason", "x",
		"--request", "signature:release")...)
	f.refuses("known jail permission (did you mean raw_sockets?); if a newer kernel", approve(pinned, "--expires", "1h", "--reason", "x",
		"--request", "allow:raw_socket")...)
	f.refuses("want one of the kinds [address allow", approve(pinned, "--expires", "1h", "--reason", "x", "--request",
		"permission:mlock")...)
	f.refuses("no such image", approve(f.at+"@"+digest.FromString("x").String(), "--reason", "x", "--expires", "1h")...)
	if _, said, failed := f.do("wrong", approve(pinned, "--reason", "x", "--expires", "1h")...); !failed ||
		!strings.Contains(said, "wrong password") {
		t.Errorf("got %s", said)
	}
	if _, said, failed := f.do("secret", "policy", "approve", "--sign", f.dir+"/none", pinned, "--reason", "x",
		"--expires", "1h"); !failed || strings.Contains(said, "approves of") {
		t.Errorf("without its key: %s", said)
	}
	out, said, failed := f.do("secret", approve(pinned, "--reason", "seen", "--expires", "1h")...)
	for _, want := range []string{"approves of " + f.digest.String(), "allow:raw_sockets", "mount:tmpfs on /tmp"} {
		if failed || !strings.Contains(said, want) {
			t.Errorf("%q is not shown: %s", want, said)
		}
	}
	var done []struct {
		ID    digest.Digest
		Image string
	}
	must(t, json.Unmarshal([]byte(out), &done))
	if len(done) != 1 || done[0].Image != pinned {
		t.Errorf("got %s", out)
	}

	// What a job may ask for is told apart from what the image does.
	_, said, failed = f.do("secret", approve(pinned, "--reason", "a job", "--expires", "1h", "--request", "allow:mlock",
		"--request", "allow:raw_sockets", "--request", "allow:brand_new", "--unknown-parameter", "brand_new")...)
	for _, want := range []string{"allow:mlock   (the image does not ask for it: ", "allow:raw_sockets\n",
		"allow:brand_new   (the image does not"} {
		if failed || !strings.Contains(said, want) {
			t.Errorf("%q is not told: %s", want, said)
		}
	}

	list := filepath.Join(f.dir, "list")
	f.refuses("--sign needs --list", "policy", "revoke", "--sign", f.dir+"/key", done[0].ID.String())
	revoke := func(more ...string) []string {
		return append([]string{"policy", "revoke", "--sign", f.dir + "/key", "--list", list}, more...)
	}
	f.refuses("--sign needs --reason", revoke(done[0].ID.String())...)
	f.refuses("not the ID of a signed approval", revoke("--reason", "x", "a7")...)
	f.refuses("give all of it, as `freejail-build approvals IMAGE` shows it (this host could not",
		revoke("--reason", "x", done[0].ID.Encoded()[:12])...)
	f.refuses("names are given anew", revoke("--reason", "x", "--image", f.at+":1")...)
	gone := "127.0.0.1:1/x@" + f.digest.String()
	f.refuses("--image "+f.digest.String()+", needs no registry", revoke("--reason", "x", "--image", gone)...)
	// A list is begun by that word alone: without the old one the new would have none of its revocations.
	f.refuses("there is no list: have the newest there", revoke(done[0].ID.String(), "--reason", "CVE")...)
	f.refuses("there is no list: have the newest there", revoke()...)
	if _, err := os.Stat(list); err == nil {
		t.Error("a list was begun")
	}
	if out, said, failed := f.do("secret", revoke("--new")...); failed || !strings.Contains(out, "serial 1, 0 revocations") {
		t.Errorf("got %s, %s", out, said)
	}
	f.refuses("there is a list already", revoke("--new")...)
	f.refuses("are for --sign KEY", "policy", "revoke", "--list", list, "x")
	f.refuses("are for --sign KEY", "policy", "approve", "--ca-file", list, "x")
	for _, one := range []struct {
		says string
		more []string
	}{
		{"the approval with the ID " + done[0].ID.String() + " (if that is the digest of an image: --image)",
			[]string{done[0].ID.String(), "--reason", "CVE"}},
		{"all approvals until now of the image " + f.digest.String(), []string{"--image", f.digest.String(),
			"--reason", "CVE"}},
		{"all approvals until now of the image " + f.digest.String(), []string{"--image", pinned,
			"--reason", "CVE"}},
		{"serial 5, 3 revocations", nil},
	} {
		if out, said, failed := f.do("secret", revoke(one.more...)...); failed || !strings.Contains(out, one.says) {
			t.Errorf("got %s, %s, want %s", out, said, one.says)
		}
	}
	text, err := os.ReadFile(list)
	must(t, err)
	l, err := approval.ReadList(text, f.public)
	if err != nil || l.Serial != 5 || len(l.Revoked) != 3 || l.Revoked[0].Approval != done[0].ID ||
		l.Revoked[0].Reason != "CVE" || l.Revoked[1].Image != f.digest {
		t.Errorf("got %+v, %v", l, err)
	}
	// A list of an older copy, and by other hands, has nothing lost by being merged.
	older := filepath.Join(f.dir, "older")
	for i, one := range []string{done[0].ID.String(), digest.FromString("other").String()} {
		args := []string{"policy", "revoke", "--sign", f.dir + "/key", "--list", older, "--reason", "again", one}
		if i == 0 {
			args = append(args, "--new")
		}
		if out, said, failed := f.do("secret", args...); failed {
			t.Errorf("%s %s", out, said)
		}
	}
	if out, said, failed := f.do("secret", "policy", "revoke", "--sign", f.dir+"/key", "--list", older, "--merge",
		list); failed || !strings.Contains(out, "serial 6, 4 revocations") {
		t.Errorf("got %s, %s", out, said)
	}
	text, err = os.ReadFile(older)
	must(t, err)
	if l, err := approval.ReadList(text, f.public); err != nil || l.Revoked[0].Reason != "again" ||
		l.Revoked[1].Approval != digest.FromString("other") || l.Revoked[2].Image != f.digest {
		t.Errorf("got %+v, %v", l, err)
	}
	f.refuses("no such file", revoke("--merge", f.dir+"/none")...)
	must(t, os.WriteFile(list, []byte("{}"), 0o600))
	f.refuses("not signed by this key", revoke()...)
}
