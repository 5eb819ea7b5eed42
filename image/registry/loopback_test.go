package registry

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// Plain HTTP needs no configuration on this host, and goes to no other.
func TestPlainHTTPOnLoopback(t *testing.T) {
	for host, want := range map[string]bool{"localhost": true, "localhost:5000": true, "127.0.0.1": true,
		"127.9.9.9:5000": true, "[::1]:5000": true, "::1": true, "10.0.0.1:5000": false, "localhost.example": false,
		"127.0.0.1.example:80": false, "registry.example": false, "1270.0.0.1": false, "": false} {
		if isLoopback(host) != want {
			t.Errorf("%s: %v", host, !want)
		}
	}
	r, img := pushed(t, ServerOptions{}, nil)
	for _, host := range []string{r.host, strings.Replace(r.host, "127.0.0.1", "localhost", 1)} {
		got, err := client(t).Pull(ctx, newStore(t), ref(t, host+"/team/web:1"), PullOptions{})
		if err != nil || got.Digest != img.Digest {
			t.Errorf("%s: %+v %v", host, got, err)
		}
	}
	// One that speaks HTTPS is not asked without.
	asked := false
	host, _ := secure(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	_, err := client(t).Pull(ctx, newStore(t), ref(t, host+"/team/web:1"), PullOptions{})
	wantError(t, err, "certificate")
	// Nor is one for which there is a certificate.
	_, ca := secure(t, http.NotFoundHandler())
	_, err = client(t, Host{Name: r.host, CAFile: ca}).Pull(ctx, newStore(t), ref(t, r.host+"/team/web:1"),
		PullOptions{})
	wantError(t, err, "HTTP response to HTTPS client")
	if asked {
		t.Error("a certificate of an unknown issuer was taken")
	}
	// A registry elsewhere cannot have this host asked without TLS, nor can one of this
	// host have other ports asked so.
	c, other := client(t), "http://127.0.0.1:1"
	for _, own := range []bool{false, true} {
		to := map[bool]string{false: r.URL, true: other}[own]
		req := httptest.NewRequest(http.MethodGet, to+"/v2/", nil)
		req.RequestURI = ""
		if own {
			req = req.WithContext(context.WithValue(req.Context(), loopbackKey{}, endpoint(r.host)))
		}
		_, err := c.http.Do(req)
		wantError(t, err, "plain HTTP is not enabled for")
	}
}

// What does not answer is not taken for a registry without TLS.
func TestWhatMayHaveTLS(t *testing.T) {
	old := handshake
	t.Cleanup(func() { handshake = old })
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for name, c := range map[string]struct {
		accept func(net.Conn) // nil closes the port
		want   bool
	}{
		"down":    {nil, true},
		"silent":  {func(net.Conn) {}, true},
		"closing": {func(c net.Conn) { _ = c.Close() }, false},
		"HTTP":    {func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.0 400 Bad Request\r\n\r\n")) }, false},
	} {
		if handshake = old; name == "silent" {
			handshake = 50 * time.Millisecond
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		defer l.Close()
		if c.accept == nil {
			check(t, l.Close())
		}
		go func() {
			if conn, err := l.Accept(); err == nil {
				c.accept(conn)
			}
		}()
		if got := mayHaveTLS(ctx, l.Addr().String()); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	host, _ := secure(t, http.NotFoundHandler())
	if !mayHaveTLS(ctx, host) || mayHaveTLS(ctx, strings.TrimPrefix(plain.URL, "http://")) {
		t.Error("a server's own protocol is not found")
	}
}

// tokenFor gives tokens, and lets nobody in who has none.
func tokenFor(challenge string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			_, _ = w.Write([]byte(`{"token":"t"}`))
		case r.Header.Get("Authorization") == "":
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
}

// Credentials for a registry of this host are not for whoever has its port while it is
// down, in plain HTTP, unless that is configured; nor is a token that they have given.
func TestPlainHTTPWithCredentials(t *testing.T) {
	impatient(t)
	for name, challenge := range map[string]string{"basic": `Basic realm="x"`,
		"bearer": `Bearer realm="/token",service="s"`, "bearer elsewhere": `Bearer realm="OTHER/token",service="s"`} {
		t.Run(name, func(t *testing.T) {
			var ears listener
			other := httptest.NewServer(ears.wrap(tokenFor("")))
			defer other.Close()
			thief := ears.wrap(tokenFor(strings.ReplaceAll(challenge, "OTHER", other.URL)))
			s := httptest.NewServer(thief)
			defer s.Close()
			host := strings.TrimPrefix(s.URL, "http://")
			own := Host{Name: host, Username: "fleet", PasswordFile: passwordFile(t)}
			for _, o := range []PullOptions{{}, {Credential: &Credential{"fleet", fleetPassword}}} {
				c := client(t, own)
				// As after a pull over TLS.
				_, err := c.authClient(host, "", nil, nil).Cache.Set(ctx, host, auth.SchemeBasic, "",
					func(context.Context) (string, error) { return "Zm9vOmJhcg==", nil })
				check(t, err)
				_, err = c.Pull(ctx, newStore(t), ref(t, host+"/team/web:1"), o)
				wantError(t, err, "credentials are not sent over plain HTTP", "plain_http = true", "--plain-http "+host)
				if ears.heard() != 0 {
					t.Fatalf("%q was sent", ears.auth)
				}
			}
			own.PlainHTTP = true
			_, err := client(t, own).Pull(ctx, newStore(t), ref(t, host+"/team/web:1"), PullOptions{})
			if sent := ears.heard() > 0; err == nil || sent == strings.Contains(challenge, "OTHER") {
				t.Errorf("with plain_http: %v, sent %v", err, sent)
			}
		})
	}
}

// Who runs a program has its logins sent where they are for, and nowhere else.
func TestLoopbackLogins(t *testing.T) {
	impatient(t)
	var ears listener
	other := httptest.NewServer(ears.wrap(tokenFor("")))
	defer other.Close()
	for challenge, sent := range map[string]bool{`Basic realm="x"`: true, `Bearer realm="/token",service="s"`: true,
		`Bearer realm="` + other.URL + `/token",service="s"`: false} {
		s := httptest.NewServer(ears.wrap(tokenFor(challenge)))
		host := strings.TrimPrefix(s.URL, "http://")
		c, err := NewClient(Config{LoopbackLogins: true,
			Hosts: []Host{{Name: host, Username: "fleet", PasswordFile: passwordFile(t)}}})
		check(t, err)
		before := ears.heard()
		if _, err := c.Pull(ctx, newStore(t), ref(t, host+"/team/web:1"), PullOptions{}); err == nil {
			t.Error("pulled from a registry without images")
		}
		if got := ears.heard() > before; got != sent {
			t.Errorf("%s: sent %v, want %v", challenge, got, sent)
		}
		s.Close()
	}
}
