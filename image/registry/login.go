package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/freejail/freejail/internal/imagename"
)

// ErrNoLogin means that a file has no credentials for a registry.
var ErrNoLogin = errors.New("no credentials")

// ParseHost reads the host of a registry, with or without a port, as users and docker's files write it.
func ParseHost(text string) (string, error) {
	host := canonicalKey(text)
	if strings.Contains(host, "/") {
		return "", fmt.Errorf("%q is not the HOST or HOST:PORT of a registry", shortened(text))
	}
	return host, checkHost(host)
}

// CheckLogin asks a registry whether it knows a user. One that asks nobody for a login is an error too.
func (c *Client) CheckLogin(ctx context.Context, host string, cred Credential) error {
	p, err := c.place(Reference{Host: imagename.Host(host), Repository: "login"}, &cred)
	if err != nil {
		return err
	}
	var asked atomic.Bool
	clients := []*auth.Client{p.do.Client}
	if p.do.loopback != nil {
		clients = append(clients, p.do.loopback.client)
	}
	for _, client := range clients {
		ask := client.Credential
		client.Credential = func(ctx context.Context, host string) (auth.Credential, error) {
			asked.Store(true)
			return ask(ctx, host)
		}
	}
	scheme := "https"
	if p.PlainHTTP {
		scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+p.Reference.Host()+"/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := p.do.Do(req)
	if err != nil {
		return fmt.Errorf("registry %s: %w", host, err)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	return errors.Join(loginError(host, resp.StatusCode, asked.Load()), err, resp.Body.Close())
}

func loginError(host string, status int, asked bool) error {
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return fmt.Errorf("registry %s refuses this user and password", host)
	case status != http.StatusOK:
		return fmt.Errorf("registry %s answered %d %s", host, status, http.StatusText(status))
	case !asked:
		return fmt.Errorf("registry %s asks for no login: nothing is stored", host)
	}
	return nil
}

// SaveLogin puts a login into a file of docker's or podman's, or with the credential helper that the file names. All
// else in the file stays as it is; it is replaced at once, and readable by its owner alone.
func SaveLogin(ctx context.Context, file, host string, cred Credential) error {
	store, err := loginStore(file)
	if err != nil {
		return err
	}
	c := auth.Credential{Username: cred.Username, Password: cred.Password}
	return store.Put(ctx, credentials.ServerAddressFromRegistry(host), c)
}

// RemoveLogin takes all of a registry's logins out of a file, and from its credential helper. ErrNoLogin tells that
// there was none.
func RemoveLogin(ctx context.Context, file, host string) error {
	f, err := readAuthFile(file)
	if err != nil {
		return err
	}
	store, err := loginStore(file)
	if err != nil {
		return err
	}
	found := false
	if helper, own := pick(f.CredHelpers, host); own && helper != "" || f.CredsStore != "" {
		cred, err := f.find(ctx, host, true, func(string) {})
		if err == nil && cred != auth.EmptyCredential {
			found = true
			err = store.Delete(ctx, credentials.ServerAddressFromRegistry(host))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	plain, err := credentials.NewFileStore(loginFile(file))
	for key := range f.Auths {
		if err == nil && canonicalKey(key) == host {
			found = true
			err = plain.Delete(ctx, key)
		}
	}
	if err == nil && !found {
		err = fmt.Errorf("%s: %w for %s", file, ErrNoLogin, host)
	}
	return err
}

func loginStore(file string) (credentials.Store, error) {
	store, err := credentials.NewStore(loginFile(file), credentials.StoreOptions{AllowPlaintextPut: true})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return store, nil
}

// loginFile is what a link leads to: that is replaced, not the link.
func loginFile(file string) string {
	if real, err := filepath.EvalSymlinks(file); err == nil {
		return real
	}
	return file
}

// LoginFile is where a login of who runs this program is stored: in the first of those files that is there, or in
// docker's.
func LoginFile() string {
	files := UserAuthFiles()
	if first := os.Getenv("REGISTRY_AUTH_FILE"); first != "" {
		return first
	}
	for _, file := range files {
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			return file
		}
	}
	return files[len(files)-1]
}
