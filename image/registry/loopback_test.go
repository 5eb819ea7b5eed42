package registry

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
	// host have others asked so.
	c := client(t)
	for _, own := range []bool{false, true} {
		to := map[bool]string{false: r.URL, true: "http://10.0.0.1:5000"}[own]
		req := httptest.NewRequest(http.MethodGet, to+"/v2/", nil)
		req.RequestURI = ""
		if own {
			req = req.WithContext(context.WithValue(req.Context(), loopbackKey{}, true))
		}
		_, err := c.http.Do(req)
		wantError(t, err, "plain HTTP is not enabled for")
	}
}
