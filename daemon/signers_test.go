package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/testimage"
)

// keyPair writes a public key to a file.
func keyPair(t *testing.T) (*sign.PrivateKey, string) {
	t.Helper()
	private, public, err := sign.Generate(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := sign.ReadPrivate(private, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(file, public, 0o644); err != nil {
		t.Fatal(err)
	}
	return key, file
}

func (r *remote) sign(t *testing.T, name, identity string, key *sign.PrivateKey) {
	t.Helper()
	c, err := registry.NewClient(registry.Config{Hosts: []registry.Host{{Name: r.host, PlainHTTP: true}}})
	if err != nil {
		t.Fatal(err)
	}
	at, err := registry.ParseLocation(r.host + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sign(t.Context(), at, key, identity, image.Limits{}); err != nil {
		t.Fatal(err)
	}
}

// A permit can be for what a key has signed, and a signature can be required of
// images that ask for nothing; both for the digest and the repository signed.
func TestSigners(t *testing.T) {
	dir, r := shortDir(t), newRemote(t, "")
	asking := testimage.Spec{Name: "prog", Cmd: []string{"inside"},
		Manifest: `{"schemaVersion":1,"requires":{"mounts":[{"type":"tmpfs","target":"/tmp"}]}}`}
	release, releaseFile := keyPair(t)
	stranger, _ := keyPair(t)
	for _, name := range []string{"prod/signed", "prod/unsigned", "prod/strange", "prod/moved"} {
		r.push(t, "", name+":1", asking)
	}
	r.sign(t, "prod/signed:1", "", release)
	r.sign(t, "prod/strange:1", "", stranger)
	r.sign(t, "prod/moved:1", r.host+"/prod/signed", release)
	r.push(t, "", "prod/plain:1", testimage.Spec{Name: "prog", Cmd: []string{"inside"}})
	host := fmt.Sprintf(`signer "release" {
  key_file = %q
}
permit {
  signer = ["release"]
  mounts = ["tmpfs:/tmp"]
}
require {
  signer = ["release"]
  images = ["%s/prod/**"]
}
`, releaseFile, r.host)
	c, stop := daemonAt(t, dir, r.config("")+host)
	ctx := t.Context()
	start := func(name string) error {
		id := "t-" + strings.NewReplacer("/", "-", ":", "-", "@", "-").Replace(name)
		_, err := c.Start(ctx, client.TaskSpec{ID: id[:min(len(id), 50)], Owner: "nomad", Image: r.host + "/" + name})
		return err
	}
	if err := start("prod/signed:1"); err != nil {
		t.Error(err)
	}
	for name, want := range map[string][]string{"prod/unsigned:1": {"no permit covers it", "a signature of release"},
		"prod/strange:1": {"a signature of release"},
		"prod/moved:1":   {"a signature of release"}, "prod/plain:1": {"required at freejail.hcl",
			"--request signature:release"}} {
		err := start(name)
		if !client.IsRefused(err) {
			t.Errorf("%s: got %v", name, err)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q is not in: %v", name, w, err)
			}
		}
	}
	// The registry is not needed to verify, and a restart forgets nothing.
	r.down.Store(true)
	if err := c.Destroy(ctx, "t-prod-signed-1", true); err != nil {
		t.Fatal(err)
	}
	stop(os.Kill)
	c, _ = daemonAt(t, dir, r.config("")+host)
	if err := start("prod/signed:1"); err != nil {
		t.Error(err)
	}
	info, err := c.Image(ctx, r.host+"/prod/signed:1")
	if err != nil || !slices.Equal(info.Signers, []string{"release"}) {
		t.Errorf("got %+v, %v", info, err)
	}
	d, err := c.CheckPolicy(ctx, client.TaskSpec{Image: r.host + "/prod/unsigned:1"})
	if err != nil || d.Allowed || len(d.Signers) != 0 {
		t.Errorf("got %+v, %v", d, err)
	}
	// An operator's word for one digest stands in for a signature.
	if _, err := c.Approve(ctx, client.ApproveRequest{Image: r.host + "/prod/plain:1",
		Requests: []string{"signature:release"}, Why: "seen"}); err != nil {
		t.Error(err)
	}
	if err := start("prod/plain:1"); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"t-prod-signed-1", "t-prod-plain-1"} {
		if err := c.Destroy(ctx, id, true); err != nil {
			t.Error(err)
		}
	}
	nothingLeft(t, dir)
}
