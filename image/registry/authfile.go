package registry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/freejail/freejail/internal/imagename"
)

// authFile are credentials as docker, podman and skopeo write them.
type authFile struct {
	Auths       map[string]authEntry `json:"auths"`
	CredHelpers map[string]string    `json:"credHelpers"`
	CredsStore  string               `json:"credsStore"`
}

type authEntry struct {
	Auth          string `json:"auth"` // USER:PASSWORD in base64
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// readAuthFile reads a file, which need not exist.
func readAuthFile(file string) (f authFile, err error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(bytes.TrimSpace(b)) == 0 {
		return f, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		return f, fmt.Errorf("%s: %w", file, err)
	}
	return f, nil
}

// lookup finds credentials in a file. Podman's can be for a part of a registry: the
// longest that fits counts. A helper that is not installed is told to warn.
func lookup(ctx context.Context, file string, ref Reference, warn func(string)) (auth.Credential, error) {
	f, err := readAuthFile(file)
	if err != nil {
		return auth.EmptyCredential, err
	}
	for key := ref.Identity(); ; {
		cred, err := f.find(ctx, key, key == ref.Host, func(text string) { warn(file + ": " + text) })
		if err != nil {
			return auth.EmptyCredential, fmt.Errorf("%s: credentials for %s: %w", file, key, err)
		}
		if cred != auth.EmptyCredential || key == ref.Host {
			return cred, nil
		}
		key = key[:strings.LastIndexByte(key, '/')]
	}
}

// find looks up a registry or a part of one. Its helper comes before what the file has
// itself; the helper for all is asked of registries alone.
func (f authFile) find(ctx context.Context, key string, whole bool, warn func(string)) (auth.Credential, error) {
	written, _ := pick(f.Auths, key)
	own, err := written.credential()
	helper, named := pick(f.CredHelpers, key)
	if !named && whole {
		helper = f.CredsStore
	}
	if helper == "" {
		return own, err
	}
	if strings.ContainsAny(helper, `/\`) {
		return own, fmt.Errorf("the credential helper %.100q is not the name of a program", helper)
	}
	program := "docker-credential-" + helper
	if _, missing := exec.LookPath(program); errors.Is(missing, exec.ErrNotFound) {
		if named && own == auth.EmptyCredential {
			return own, cmp.Or(err, fmt.Errorf("the credential helper %s is not installed: put it into a directory of "+
				"PATH (%s), or take it out of credHelpers", program, os.Getenv("PATH")))
		}
		warn(fmt.Sprintf("the credential helper %s is not installed: what the file itself says is used", program))
		return own, err
	}
	got, failed := askHelper(ctx, program, credentials.ServerAddressFromRegistry(key), warn)
	if failed != nil || got != auth.EmptyCredential {
		return got, failed
	}
	if named && own == auth.EmptyCredential { // Amazon's says so whatever has failed, and why to its log
		warn(fmt.Sprintf("the credential helper %s has nothing for %s: its own log may tell why", program, key))
	}
	return own, err
}

// pick finds a key in any way of writing it.
func pick[V any](m map[string]V, key string) (v V, ok bool) {
	if v, ok = m[key]; ok {
		return v, true
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if canonicalKey(k) == key {
			return m[k], true
		}
	}
	return v, false
}

// canonicalKey is a registry or a part of one. Docker's are URLs, of which the host
// counts: https://registry.example/v1/.
func canonicalKey(k string) string {
	rest, https := strings.CutPrefix(k, "https://")
	rest, http := strings.CutPrefix(rest, "http://")
	host, path, _ := strings.Cut(strings.TrimSuffix(rest, "/"), "/")
	host = imagename.Host(host)
	api := (path == "v1" || path == "v2") && strings.HasSuffix(rest, "/")
	if https || http || api || path == "" {
		return host
	}
	return host + "/" + path
}

func (e authEntry) credential() (auth.Credential, error) {
	c := auth.Credential{Username: e.Username, Password: e.Password, RefreshToken: e.IdentityToken,
		AccessToken: e.RegistryToken}
	if e.Auth == "" {
		return c, nil
	}
	b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(e.Auth), "="))
	user, password, ok := strings.Cut(string(b), ":")
	if err != nil || !ok {
		return auth.EmptyCredential, errors.New("auth is not USER:PASSWORD in base64")
	}
	c.Username, c.Password = user, strings.Trim(password, "\x00")
	return c, nil
}
