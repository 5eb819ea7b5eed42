package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// credential tells a registry's credentials to that registry alone; hostport is
// as it is dialled.
func (c *Client) credential(ref Reference, hostport string, given *Credential) auth.CredentialFunc {
	return func(ctx context.Context, asked string) (auth.Credential, error) {
		if asked != hostport {
			return auth.EmptyCredential, nil
		}
		if given != nil {
			return auth.Credential{Username: given.Username, Password: given.Password}, nil
		}
		return c.configured(ctx, ref)
	}
}

// configured looks up the credentials of a repository in the configuration.
func (c *Client) configured(ctx context.Context, ref Reference) (auth.Credential, error) {
	h := c.hosts[ref.Host]
	if h.Username != "" {
		password, err := secret(h.PasswordFile)
		return auth.Credential{Username: h.Username, Password: password}, err
	}
	files := c.authFiles
	if h.AuthFile != "" {
		if _, err := os.Stat(h.AuthFile); err != nil {
			return auth.EmptyCredential, fmt.Errorf("auth_file: %w", err)
		}
		files = []string{h.AuthFile}
	}
	for _, file := range files {
		cred, err := lookup(ctx, file, ref)
		if err != nil || cred != auth.EmptyCredential {
			return cred, err
		}
	}
	return auth.EmptyCredential, nil
}

// lookup finds credentials in a file of docker's or podman's format. Podman's
// can be for a part of a registry: the longest that fits counts.
func lookup(ctx context.Context, file string, ref Reference) (auth.Credential, error) {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return auth.EmptyCredential, nil
	}
	store, err := credentials.NewStore(file, credentials.StoreOptions{})
	if err != nil {
		return auth.EmptyCredential, fmt.Errorf("%s: %w", file, err)
	}
	for key := ref.Identity(); ; {
		server := key
		if key == ref.Host {
			server = credentials.ServerAddressFromRegistry(ref.Host)
		}
		cred, err := store.Get(ctx, server)
		if err != nil && key == ref.Host { // a helper need not understand a part
			return auth.EmptyCredential, fmt.Errorf("%s: credentials for %s: %w", file, key, err)
		}
		if err == nil && cred != auth.EmptyCredential || key == ref.Host {
			return cred, nil
		}
		key = key[:strings.LastIndexByte(key, '/')]
	}
}

// secret reads a file that holds nothing but a secret.
func secret(file string) (string, error) {
	b, err := os.ReadFile(file)
	return strings.TrimRight(string(b), "\r\n"), err
}

// UserAuthFiles are where podman and docker keep the credentials of who runs
// this program, the first to be asked first.
func UserAuthFiles() []string {
	var out []string
	add := func(dir string, elem ...string) {
		if dir != "" {
			out = append(out, filepath.Join(append([]string{dir}, elem...)...))
		}
	}
	add(os.Getenv("REGISTRY_AUTH_FILE"))
	add(os.Getenv("XDG_RUNTIME_DIR"), "containers", "auth.json")
	home, _ := os.UserHomeDir() // empty for who has none
	if config := os.Getenv("XDG_CONFIG_HOME"); config != "" {
		add(config, "containers", "auth.json")
	} else {
		add(home, ".config", "containers", "auth.json")
	}
	if docker := os.Getenv("DOCKER_CONFIG"); docker != "" {
		add(docker, "config.json")
	} else {
		add(home, ".docker", "config.json")
	}
	return out
}
