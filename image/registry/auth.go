package registry

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
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
		cred, err := lookup(ctx, file, ref, c.warn)
		if err != nil || cred != auth.EmptyCredential {
			return cred, err
		}
	}
	return auth.EmptyCredential, nil
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
