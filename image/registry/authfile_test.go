package registry

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// Files are read as docker, podman and skopeo write them.
func TestAuthFiles(t *testing.T) {
	dir := t.TempDir()
	helper := func(name, script string) {
		check(t, os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+script), 0o755))
	}
	helper("good", `read at; echo "{\"Username\":\"helper\",\"Secret\":\"of $at\"}"`)
	helper("token", `echo '{"Username":"<token>","Secret":"T"}'`)
	helper("none", "echo credentials not found in native keychain; exit 1")
	helper("broken", "echo locked; exit 1")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	me := base64.StdEncoding.EncodeToString([]byte("me:se:cret"))
	user := auth.Credential{Username: "me", Password: "se:cret"}
	for text, want := range map[string]struct {
		cred auth.Credential
		warn bool
		err  string
	}{
		`{"auths":{"HOST":{"auth":"ME"}}}`:                               {cred: user},
		`{"auths":{"https://HOST":{"auth":"ME"}}}`:                       {cred: user},
		`{"auths":{"https://HOST/v1/":{"auth":"ME"}}}`:                   {cred: user},
		`{"auths":{"http://HOST/v2/":{"auth":"ME"}}}`:                    {cred: user},
		`{"auths":{"HOST/v1/":{"auth":"ME"}}}`:                           {cred: user},
		`{"auths":{"HOST/":{"auth":"ME"}}}`:                              {cred: user},
		`{"auths":{"HOST/team":{"auth":"ME"}}}`:                          {cred: user},
		`{"auths":{"HOST/team/web":{"auth":"ME"},"HOST":{}}}`:            {cred: user},
		`{"auths":{"HOST/other":{"auth":"ME"}}}`:                         {},
		`{"auths":{"HOST/tea":{"auth":"ME"}}}`:                           {},
		`{"auths":{"reg.example":{"auth":"ME"}}}`:                        {},
		`{"auths":{"HOST":{"username":"me","password":"se:cret"}}}`:      {cred: user},
		`{"auths":{"HOST":{"auth":"bWU6c2U6Y3JldA=="}},"credsStore":""}`: {cred: user},
		`{"auths":{"HOST":{"identitytoken":"I"}}}`:                       {cred: auth.Credential{RefreshToken: "I"}},
		`{"auths":{"HOST":{"registrytoken":"R"}}}`:                       {cred: auth.Credential{AccessToken: "R"}},
		`{"auths":{"HOST":{"auth":"%%%"}}}`:                              {err: "not USER:PASSWORD"},
		`{"auths":{"HOST":{"auth":"bWU="}}}`:                             {err: "not USER:PASSWORD"},
		`{"auths":{"other.example":{"auth":"%%%"}}}`:                     {},
		` `: {},
		`{"auths":{"HOST":{"auth":"ME"}},"credsStore":"gone"}`:           {cred: user, warn: true},
		`{"auths":{"HOST":{"auth":"ME"}},"credsStore":"desktop"}`:        {cred: user, warn: true},
		`{"auths":{"HOST/team":{"auth":"ME"}},"credsStore":"gone"}`:      {cred: user},
		`{"auths":{"HOST":{}},"credsStore":"gone"}`:                      {warn: true},
		`{"auths":{"HOST":{"auth":"ME"}},"credHelpers":{"HOST":"gone"}}`: {cred: user, warn: true},
		`{"credHelpers":{"HOST":"gone"}}`:                                {err: "docker-credential-gone is not installed"},
		`{"credsStore":"x/../../good"}`:                                  {err: "is not the name of a program"},
		`{"credHelpers":{"HOST":"a\\b"}}`:                                {err: "is not the name of a program"},
		`{"credHelpers":{"other.example":"gone"}}`:                       {},
		`{"credsStore":"good"}`: {cred: auth.Credential{Username: "helper",
			Password: "of reg.example:5000"}},
		`{"credHelpers":{"https://HOST":"good"},"credsStore":"broken"}`: {cred: auth.Credential{
			Username: "helper", Password: "of reg.example:5000"}},
		`{"credHelpers":{"HOST/team":"good"}}`: {cred: auth.Credential{Username: "helper",
			Password: "of reg.example:5000/team"}},
		`{"credsStore":"token"}`:                                 {cred: auth.Credential{RefreshToken: "T"}},
		`{"auths":{"HOST":{"auth":"ME"}},"credsStore":"none"}`:   {cred: user},
		`{"credHelpers":{"HOST":"none"}}`:                        {warn: true},
		`{"credsStore":"none"}`:                                  {},
		`{"auths":{"HOST":{"auth":"ME"}},"credsStore":"broken"}`: {err: "locked"},
	} {
		file := filepath.Join(dir, "auth.json")
		check(t, os.WriteFile(file, []byte(strings.NewReplacer(`"ME"`, fmt.Sprintf("%q", me), "HOST",
			"reg.example:5000").Replace(text)), 0o600))
		warned := ""
		got, err := lookup(ctx, file, ref(t, "reg.example:5000/team/web:1"), func(text string) { warned += text })
		if want.err != "" {
			wantError(t, err, want.err)
			continue
		}
		if err != nil || got != want.cred || (warned != "") != want.warn {
			t.Errorf("%s: %+v %v, warned %q; want %+v", text, got, err, warned, want)
		}
	}
	hub := filepath.Join(dir, "hub")
	check(t, os.WriteFile(hub, fmt.Appendf(nil, `{"auths":{"https://index.docker.io/v1/":{"auth":%q}}}`, me), 0o600))
	if got, err := lookup(ctx, hub, ref(t, "docker.io/library/web:1"), nil); err != nil || got != user {
		t.Errorf("docker.io: %+v %v", got, err)
	}
}
