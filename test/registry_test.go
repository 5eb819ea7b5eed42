package test

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/testimage"
)

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
	srv, err := registry.NewServer(filepath.Join(tmp, "registry"), registry.ServerOptions{Users: users})
	check(t, err)
	web := httptest.NewServer(srv)
	t.Cleanup(func() { web.Close(); check(t, srv.Close()) })
	host := strings.TrimPrefix(web.URL, "http://")

	path, err := testimage.Write(t.Context(), tmp, testimage.Spec{Name: "probe", Manifest: manifest})
	check(t, err)
	cl, err := registry.NewClient(registry.Config{Hosts: []registry.Host{{Name: host, PlainHTTP: true, Username: "fleet", PasswordFile: filepath.Join(tmp, "password")}}})
	check(t, err)
	ref, err := registry.ParseReference(host + "/team/probe:1")
	check(t, err)
	done, err := cl.Copy(t.Context(), registry.Location{Kind: registry.Archive, Path: path}, registry.Location{Kind: registry.Remote, Ref: ref}, registry.CopyOptions{})
	check(t, err)

	before, err := os.ReadFile(c.path("freejail.hcl"))
	check(t, err)
	t.Cleanup(func() { c.write(t, "freejail.hcl", string(before)) })
	c.write(t, "freejail.hcl", string(before)+fmt.Sprintf("registry %q {\n  plain_http = true\n}\n", host))
	refused, task := job("pull-refused", "exit", "0")
	task.Config["image"] = ref.String()
	c.run(t, batch(refused))
	wantMessage(t, c.one(t, refused, "failed"), "there are no credentials")
	pulled, task := job("pull", "exit", "0")
	task.Config["image"] = ref.String()
	task.Config["image_pull_timeout"] = "1m"
	task.Config["auth"] = []map[string]any{{"username": "fleet", "password": password}}
	c.run(t, batch(pulled))
	a := c.one(t, pulled, "complete")
	wantMessage(t, a, "pulling "+ref.String())
	wantMessage(t, a, ref.String()+" is "+done.Digest.String())
	for _, m := range messages(a.TaskStates["probe"]) {
		if strings.Contains(m, password) {
			t.Errorf("an event tells the password: %s", m)
		}
	}
	check(t, c.daemon.RemoveImage(t.Context(), ref.String()))
}
