package main

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A password comes by standard input, is verified, and is in no message.
func TestLoginAndLogout(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "sesame" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer srv.Close()
	host, file := strings.TrimPrefix(srv.URL, "http://"), filepath.Join(t.TempDir(), "auth.json")
	for _, c := range []struct {
		password, said string
		code           int
	}{{"wrong", "refuses this user and password", 1}, {"", "and a password, are needed", 2}, {"sesame\n", "", 0}} {
		r := start(t, "login", "--auth-file", file, "-u", "fleet", "--password-stdin", host)
		_, err := io.WriteString(r.stdin, c.password)
		check(t, errors.Join(err, r.stdin.Close()))
		said, err := io.ReadAll(r.said)
		check(t, err)
		_ = r.cmd.Wait() // its code is looked at
		if code := r.cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(string(said), c.said) ||
			strings.Contains(string(said), "sesame") {
			t.Errorf("%q: %d %s", c.password, code, said)
		}
		if _, err := os.Stat(file); (err == nil) != (c.code == 0) {
			t.Errorf("%q: the file: %v", c.password, err)
		}
	}
	if _, messages := fails(t, 2, "login", host); !strings.Contains(messages, "no user: add --username") {
		t.Error(messages)
	}
	if out := ok(t, "login", "--auth-file", file, "-u", "fleet", "-p", "sesame", host); !strings.Contains(out, "as fleet") {
		t.Error(out)
	}
	ok(t, "logout", "--auth-file", file, host)
	if _, messages := fails(t, 1, "logout", "--auth-file", file, host); !strings.Contains(messages, "no credentials") {
		t.Error(messages)
	}
}

func fails(t *testing.T, code int, args ...string) (out, messages string) {
	t.Helper()
	got, out, messages := call(t, args...)
	if got != code {
		t.Errorf("%q: exit code %d, want %d: %s", args, got, code, messages)
	}
	return out, messages
}
