package registry

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A login is known by the registry before it is stored, and what else a file has stays.
func TestLogin(t *testing.T) {
	host, ca, _ := private(t)
	c := client(t, Host{Name: host, CAFile: ca})
	good := Credential{"fleet", fleetPassword}
	check(t, c.CheckLogin(ctx, host, good))
	if err := c.CheckLogin(ctx, host, Credential{"fleet", "wrong"}); err == nil ||
		!strings.Contains(err.Error(), "refuses this user") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("a wrong password: %v", err)
	}
	open, openCA := secure(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	err := client(t, Host{Name: open, CAFile: openCA}).CheckLogin(ctx, open, good)
	if err == nil || !strings.Contains(err.Error(), "asks for no login") {
		t.Errorf("a registry for everybody: %v", err)
	}
	dir := t.TempDir()
	file, link := filepath.Join(dir, "config.json"), filepath.Join(dir, "link")
	old := `{"proxies":{"default":{"httpProxy":"x"}},"auths":{"other.example":{"auth":"YTpi","email":"e"},"https://` +
		host + `/v1/":{"auth":"YTpi"}}}`
	check(t, os.WriteFile(file, []byte(old), 0o644))
	check(t, os.Symlink(file, link))
	check(t, SaveLogin(ctx, link, host, good))
	if fi, err := os.Lstat(link); err != nil || fi.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v %v", fi, err)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v %v", fi, err)
	}
	kept := func() map[string]map[string]any {
		b, err := os.ReadFile(file)
		check(t, err)
		var got map[string]map[string]any
		check(t, json.Unmarshal(b, &got))
		other, _ := got["auths"]["other.example"].(map[string]any)
		if got["proxies"]["default"] == nil || other["email"] != "e" {
			t.Errorf("what else the file had: %s", b)
		}
		return got
	}
	kept()
	ref := Reference{Host: host, Repository: "team/web"}
	if cred, err := lookup(ctx, file, ref, func(string) {}); err != nil || cred.Password != fleetPassword {
		t.Errorf("looked up: %v %v", cred.Username, err)
	}
	check(t, RemoveLogin(ctx, link, host))
	if got := kept(); len(got["auths"]) != 1 {
		t.Errorf("after the logout: %v", got["auths"])
	}
	for _, f := range []string{link, filepath.Join(dir, "none")} {
		if err := RemoveLogin(ctx, f, host); !errors.Is(err, ErrNoLogin) {
			t.Errorf("%s: %v", f, err)
		}
	}
	fresh := filepath.Join(dir, "new", "auth.json")
	check(t, SaveLogin(ctx, fresh, host, good))
	if fi, err := os.Stat(fresh); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("a new file: %v %v", fi, err)
	}
}

// The helper that a file names keeps the credentials, and the file has none of them.
func TestLoginByAHelper(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	kept := filepath.Join(dir, "kept")
	check(t, os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte("#!/bin/sh\ncase $1 in\nstore) cat >"+kept+
		";;\nget) cat >/dev/null; cat "+kept+";;\nerase) cat >/dev/null; rm "+kept+";;\nesac\n"), 0o755))
	file := filepath.Join(dir, "config.json")
	text := `{"credHelpers":{"r.example":"test"}}`
	check(t, os.WriteFile(file, []byte(text), 0o600))
	check(t, SaveLogin(ctx, file, "r.example", Credential{"fleet", fleetPassword}))
	b, err := os.ReadFile(kept)
	if err != nil || !strings.Contains(string(b), fleetPassword) {
		t.Errorf("the helper has %q: %v", b, err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != text {
		t.Errorf("the file has %s: %v", b, err)
	}
	check(t, RemoveLogin(ctx, file, "r.example"))
	if _, err := os.Stat(kept); err == nil {
		t.Error("the helper has it still")
	}
}

func TestParseHost(t *testing.T) {
	for text, want := range map[string]string{"docker.io": "docker.io", "https://index.docker.io/v1/": "docker.io",
		"r.example:5000": "r.example:5000", "https://r.example": "r.example", "r.example/team": "", "": "", "-u": "",
		"r.example:0": ""} {
		if got, err := ParseHost(text); (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("%q: %q %v", text, got, err)
		}
	}
}
