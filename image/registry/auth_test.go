package registry

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/freejail/freejail/image/layout"
)

const fleetPassword = "open-sesame-4711"

// users lets in fleet alone.
func users(t *testing.T) *Users {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(fleetPassword), bcrypt.MinCost)
	check(t, err)
	file := filepath.Join(t.TempDir(), "htpasswd")
	check(t, os.WriteFile(file, []byte("fleet:"+string(hash)+"\n"), 0o600))
	u, err := ReadUsers(file)
	check(t, err)
	return u
}

// listener notes every Authorization that it gets.
type listener struct {
	mu   sync.Mutex
	auth []string
}

func (l *listener) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := r.Header.Get("Authorization"); a != "" {
			l.mu.Lock()
			l.auth = append(l.auth, a)
			l.mu.Unlock()
		}
		h.ServeHTTP(w, r)
	})
}

func (l *listener) heard() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.auth)
}

// secure is a registry with TLS and its CA's file.
func secure(t *testing.T, h http.Handler) (host, caFile string) {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	check(t, os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}),
		0o600))
	return strings.TrimPrefix(s.URL, "https://"), caFile
}

// private is a registry of ours with TLS, users, and an image team/web:1.
func private(t *testing.T) (host, caFile string, open *Server) {
	t.Helper()
	srv, err := NewServer(t.TempDir(), ServerOptions{Users: users(t)})
	check(t, err)
	t.Cleanup(func() { check(t, srv.Close()) })
	host, caFile = secure(t, srv)
	dir, _ := someImage(t)
	c := client(t, Host{Name: host, CAFile: caFile, Username: "fleet", PasswordFile: passwordFile(t)})
	_, err = c.Copy(ctx, loc(t, "oci:"+dir), loc(t, host+"/team/web:1"), CopyOptions{})
	check(t, err)
	return host, caFile, srv
}

func passwordFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	check(t, os.WriteFile(file, []byte(fleetPassword+"\n"), 0o600))
	return file
}

// Credentials are found in every place where they can be written down.
func TestCredentials(t *testing.T) {
	host, ca, _ := private(t)
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		check(t, os.WriteFile(p, []byte(text), mode))
		return p
	}
	basic := base64.StdEncoding.EncodeToString([]byte("fleet:" + fleetPassword))
	wrong := base64.StdEncoding.EncodeToString([]byte("fleet:wrong"))
	write("docker-credential-test", "#!/bin/sh\n[ \"$(cat)\" = \""+host+
		"\" ] && echo '{\"Username\":\"fleet\",\"Secret\":\""+fleetPassword+"\"}'\n", 0o755)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for name, c := range map[string]struct {
		host  Host
		files []string
		given *Credential
		want  string
	}{
		"password file": {Host{Username: "fleet", PasswordFile: passwordFile(t)}, nil, nil, ""},
		"docker's file": {Host{AuthFile: write("a", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, basic),
			0o600)}, nil, nil, ""},
		"podman's part": {Host{AuthFile: write("b", fmt.Sprintf(`{"auths":{"%s/team":{"auth":%q},%q:{"auth":%q}}}`,
			host, basic, host, wrong), 0o600)}, nil, nil, ""},
		"helper": {Host{AuthFile: write("c", fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, host), 0o600)}, nil,
			nil, ""},
		"the user's": {Host{}, []string{dir + "/missing", write("d", `{"auths":{}}`, 0o600),
			write("e", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, basic), 0o600)}, nil, ""},
		"a job's": {Host{AuthFile: write("f", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, wrong),
			0o600)}, nil, &Credential{"fleet", fleetPassword}, ""},
		"none":              {Host{}, nil, nil, "no credentials are configured"},
		"wrong":             {Host{}, nil, &Credential{"fleet", "wrong"}, "access denied"},
		"missing auth file": {Host{AuthFile: dir + "/missing"}, nil, nil, "auth_file"},
		"another's auth": {Host{AuthFile: write("g", fmt.Sprintf(`{"auths":{"other.example":{"auth":%q}}}`, basic),
			0o600)}, nil, nil, "no credentials are configured"},
		"a file of nonsense": {Host{AuthFile: write("h", "nonsense "+fleetPassword, 0o600)}, nil, nil, "/h"},
	} {
		t.Run(name, func(t *testing.T) {
			c.host.Name, c.host.CAFile = host, ca
			cl, err := NewClient(Config{Hosts: []Host{c.host}, AuthFiles: c.files})
			check(t, err)
			_, err = cl.Pull(ctx, newStore(t), ref(t, host+"/team/web:1"), PullOptions{Credential: c.given})
			if c.want == "" {
				check(t, err)
				return
			}
			wantError(t, err, c.want)
			if strings.Contains(err.Error(), fleetPassword) || strings.Contains(err.Error(), basic) {
				t.Errorf("the error tells the secret: %v", err)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	host, ca, _ := private(t)
	name := ref(t, host+"/team/web:1")
	_, err := client(t).Pull(ctx, newStore(t), name, PullOptions{})
	wantError(t, err, "certificate")
	_, err = client(t, Host{Name: host, PlainHTTP: true}).Pull(ctx, newStore(t), name, PullOptions{})
	if err == nil {
		t.Error("HTTP is spoken with a server of HTTPS")
	}
	for _, h := range []Host{{Name: "Bad"}, {Name: "a.b", Username: "x"}, {Name: "a.b", PlainHTTP: true, CAFile: ca},
		{Name: "a.b", CAFile: "/nonexistent"},
		{Name: "a.b", Mirrors: []string{"https://x"}}, {Name: "a.b", PasswordFile: "x"},
		{Name: "a.b", Mirrors: []string{"m.example/../x"}}} {
		if _, err := NewClient(Config{Hosts: []Host{h}}); err == nil {
			t.Errorf("it is taken: %+v", h)
		}
	}
}

// A registry that wants tokens names who gives them. The credentials go there,
// and nowhere else.
func TestTokens(t *testing.T) {
	var ears listener
	open, _ := pushed(t, ServerOptions{}, nil)
	srv := open.srv
	var realm string
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			name, password, _ := r.BasicAuth()
			if name != "fleet" || password != fleetPassword || r.FormValue("scope") != "repository:team/web:pull" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_, _ = w.Write([]byte(`{"token":"good-token"}`))
			return
		}
		if r.Header.Get("Authorization") != "Bearer good-token" {
			w.Header().Set("WWW-Authenticate",
				fmt.Sprintf(`Bearer realm=%q,service="test",scope="repository:team/web:pull"`, realm))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		srv.ServeHTTP(w, r)
	})
	host, ca := secure(t, handler)
	c := client(t, Host{Name: host, CAFile: ca, Username: "fleet", PasswordFile: passwordFile(t)})
	realm = "https://" + host + "/token"
	_, err := c.Pull(ctx, newStore(t), ref(t, host+"/team/web:1"), PullOptions{})
	check(t, err)

	evil := httptest.NewServer(ears.wrap(handler))
	defer evil.Close()
	for _, realm = range []string{evil.URL + "/token", "ftp://" + host + "/token", "https://169.254.169.254/token"} {
		c := client(t, Host{Name: host, CAFile: ca, Username: "fleet", PasswordFile: passwordFile(t)})
		if _, err = c.Pull(ctx, newStore(t), ref(t, host+"/team/web:1"), PullOptions{}); err == nil {
			t.Errorf("realm %s: it was pulled", realm)
		} else if strings.Contains(err.Error(), fleetPassword) {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
	if ears.heard() != 0 {
		t.Errorf("credentials went to another host in the clear: %v", ears.auth)
	}
}

// A redirect to another host takes no credentials along, nor does what its URL
// holds come to light.
func TestRedirects(t *testing.T) {
	impatient(t)
	attempts = 2
	host, ca, srv := private(t)
	var ears listener
	var lost bool
	store := ears.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if lost {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		r.SetBasicAuth("fleet", fleetPassword) // what the storage knows by itself
		srv.ServeHTTP(w, r)
	}))
	storage, storageCA := secure(t, store)
	front, frontCA := secure(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") && srv.opts.Users.admit(r) {
			http.Redirect(w, r, "https://"+storage+r.URL.Path+"?signature=secret-4712", http.StatusTemporaryRedirect)
			return
		}
		srv.ServeHTTP(w, r)
	}))
	c := client(t, Host{Name: front, CAFile: frontCA, Username: "fleet", PasswordFile: passwordFile(t)},
		Host{Name: storage, CAFile: storageCA},
		Host{Name: host, CAFile: ca})
	_, err := c.Pull(ctx, newStore(t), ref(t, front+"/team/web:1"), PullOptions{})
	check(t, err)
	if ears.heard() != 0 {
		t.Errorf("the storage was told %v", ears.auth)
	}
	lost = true
	_, err = c.Pull(ctx, newStore(t), ref(t, front+"/team/web:1"), PullOptions{})
	wantError(t, err, "access denied")
	if strings.Contains(err.Error(), "secret-4712") {
		t.Errorf("the error tells the redirect's secret: %v", err)
	}
	// To plain HTTP there is no redirect.
	plain := httptest.NewServer(store)
	defer plain.Close()
	down, downCA := secure(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	_, err = client(t, Host{Name: down, CAFile: downCA}).Pull(ctx, newStore(t), ref(t, down+"/team/web:1"),
		PullOptions{})
	wantError(t, err, "plain HTTP is not enabled")
}

// A mirror gets its own credentials or none, never those of the registry.
func TestMirrorsGetNoCredentials(t *testing.T) {
	host, ca, _ := private(t)
	var ears listener
	mirror := httptest.NewServer(ears.wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="give me all"`)
		w.WriteHeader(http.StatusUnauthorized)
	})))
	defer mirror.Close()
	at := strings.TrimPrefix(mirror.URL, "http://")
	c := client(t, Host{Name: at, PlainHTTP: true}, Host{Name: host, CAFile: ca, Username: "fleet",
		PasswordFile: passwordFile(t), Mirrors: []string{at}})
	for _, o := range []PullOptions{{}, {Credential: &Credential{"fleet", fleetPassword}},
		{FetchOptions: layout.FetchOptions{Pulled: true}}} {
		_, err := c.Pull(ctx, newStore(t), ref(t, host+"/team/web:1"), o)
		check(t, err)
	}
	if ears.heard() != 0 {
		t.Errorf("the mirror was told %v", ears.auth)
	}
}
