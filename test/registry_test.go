package test

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/testimage"
)

// startRegistry is a registry of its own, with everything under one directory.
func startRegistry(t *testing.T, o registry.ServerOptions) (host string) {
	t.Helper()
	srv, err := registry.NewServer(filepath.Join(t.TempDir(), "registry"), o)
	check(t, err)
	web := httptest.NewServer(srv)
	t.Cleanup(func() { web.Close(); check(t, srv.Close()) })
	return strings.TrimPrefix(web.URL, "http://")
}

// pushProbe pushes the probe to a registry under a name.
func pushProbe(t *testing.T, h registry.Host, name string) (*registry.Client, registry.Reference, string) {
	t.Helper()
	path, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "probe", Manifest: manifest})
	check(t, err)
	cl, err := registry.NewClient(registry.Config{Hosts: []registry.Host{h}})
	check(t, err)
	ref, err := registry.ParseReference(h.Name + "/" + name)
	check(t, err)
	done, err := cl.Copy(t.Context(), registry.Location{Kind: registry.Archive, Path: path},
		registry.Location{Kind: registry.Remote, Ref: ref}, registry.CopyOptions{})
	check(t, err)
	return cl, ref, done.Digest.String()
}

// fromRegistry has a job's image come from a registry that wants a password,
// which the job gives.
func fromRegistry(t *testing.T, c *cluster) {
	const password = "open-sesame-4711"
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	check(t, err)
	tmp := t.TempDir()
	check(t, os.WriteFile(filepath.Join(tmp, "htpasswd"), []byte("fleet:"+string(hash)+"\n"), 0o600))
	check(t, os.WriteFile(filepath.Join(tmp, "password"), []byte(password), 0o600))
	users, err := registry.ReadUsers(filepath.Join(tmp, "htpasswd"))
	check(t, err)
	host := startRegistry(t, registry.ServerOptions{Users: users})
	_, ref, sum := pushProbe(t, registry.Host{Name: host, PlainHTTP: true, Username: "fleet",
		PasswordFile: filepath.Join(tmp, "password")}, "team/probe:1")

	c.configurable(t)(fmt.Sprintf("registry %q {\n  plain_http = true\n}\n", host))
	refused, task := job("pull-refused", "exit", "0")
	task.Config["image"] = ref.String()
	c.run(t, batch(refused))
	wantMessage(t, c.one(t, refused, "failed"), "no credentials are configured")
	pulled, task := job("pull", "exit", "0")
	task.Config["image"] = ref.String()
	task.Config["image_pull_timeout"] = "1m"
	task.Config["auth"] = []map[string]any{{"username": "fleet", "password": password}}
	c.run(t, batch(pulled))
	a := c.one(t, pulled, "complete")
	wantMessage(t, a, "pulling "+ref.String())
	wantMessage(t, a, ref.String()+" is "+sum)
	for _, m := range messages(a.TaskStates["probe"]) {
		if strings.Contains(m, password) {
			t.Errorf("an event tells the password: %s", m)
		}
	}
	check(t, c.daemon.RemoveImage(t.Context(), ref.String()))
}

// signedImages has the host require a signature of what comes from a registry,
// and permit more to what is signed.
func signedImages(t *testing.T, c *cluster) {
	h := registry.Host{Name: startRegistry(t, registry.ServerOptions{}), PlainHTTP: true}
	private, public, err := sign.Generate(nil)
	check(t, err)
	key, err := sign.ReadPrivate(private, nil)
	check(t, err)
	check(t, os.WriteFile(c.path("release.pub"), public, 0o644))
	c.configurable(t)(fmt.Sprintf(`
registry %q {
  plain_http = true
}
signer "release" {
  key_file = %q
}
require {
  signer = ["release"]
  images = ["%s/**"]
}
permit {
  signer = ["release"]
  allow  = ["raw_sockets"]
}
`, h.Name, c.path("release.pub"), h.Name))
	for name, status := range map[string]string{"signed": "complete", "unsigned": "failed"} {
		cl, ref, _ := pushProbe(t, h, name+":1")
		if name == "signed" {
			_, err := cl.Sign(t.Context(), registry.Location{Kind: registry.Remote, Ref: ref}, key, "", image.Limits{})
			check(t, err)
		}
		j, task := job("signature-"+name, "exit", "0")
		task.Config["image"] = ref.String()
		task.Config["allow"] = []string{"raw_sockets"}
		c.run(t, batch(j))
		a := c.one(t, j, status)
		if name == "unsigned" {
			wantMessage(t, a, "Driver Failure", "a signature of release", "required at freejail.hcl:",
				"signature:release", "allow.raw_sockets, asked for by the job", "no permit covers it")
		}
		check(t, c.daemon.RemoveImage(t.Context(), ref.String()))
	}
}
