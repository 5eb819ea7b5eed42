package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// A request that is tried for the last time has a token of its own: one that others have fetched meanwhile may be one
// that is refused.
func TestTokenOfTheLastTry(t *testing.T) {
	const host = "registry.example"
	all, fetched := newTokens(), 0
	get := func(last bool) string {
		ctx := context.WithValue(ctx, askedKey{}, &asked{last: last, own: last, sent: "refused"})
		token, err := all.Set(ctx, host, auth.SchemeBearer, "", func(context.Context) (string, error) {
			fetched++
			return []string{"first", "own"}[fetched-1], nil
		})
		check(t, err)
		return token
	}
	for _, c := range []struct {
		last bool
		want string
	}{{false, "first"}, {false, "first"}, {true, "own"}, {false, "own"}} {
		if got := get(c.last); got != c.want {
			t.Errorf("last %t: got %q, want %q", c.last, got, c.want)
		}
	}
}

// What is kept of a registry's tokens is bounded, whatever tokens it gives, for whatever scopes.
func TestTokensAreBounded(t *testing.T) {
	const host = "registry.example"
	all := newTokens()
	set := func(key, token string) error {
		_, err := all.Set(ctx, host, auth.SchemeBearer, key, func(context.Context) (string, error) { return token, nil })
		return err
	}
	for i := range 4 * maxScopes {
		check(t, set("one", fmt.Sprint("token", i)))
		all.cache = auth.NewCache() // else it would be found there
	}
	if len(all.got) > 2 { // for what was asked by itself, too
		t.Errorf("%d tokens of one scope are kept", len(all.got))
	}
	for i := range 4 * maxScopes {
		check(t, set(fmt.Sprint("scope", i), fmt.Sprint("token", i)))
		if len(all.got) > maxScopes {
			t.Fatalf("the tokens of %d scopes are kept", len(all.got))
		}
	}
	if _, err := all.GetToken(ctx, host, auth.SchemeBearer, "scope0"); err == nil {
		t.Error("the first of many scopes is still there")
	}
	wantError(t, set("large", strings.Repeat("x", maxToken)), "over the limit")
	wantError(t, set(strings.Repeat("x", maxToken), "token"), "over the limit")
}

// Of the hosts that jobs name few are known; those of the configuration stay.
func TestNamedHostsAreBounded(t *testing.T) {
	c, err := NewClient(Config{Hosts: []Host{{Name: "own.example"}}})
	check(t, err)
	ask := func(host string) *tokens {
		return c.authClient(host, "", nil, nil).Cache.(*tokens)
	}
	own, kept := ask("own.example"), ask("kept.example")
	for i := range 2 * maxNamed {
		ask(fmt.Sprintf("host%d.example", i))
		if ask("kept.example") != kept {
			t.Fatal("the tokens of a host that is used are lost")
		}
	}
	if ask("own.example") != own {
		t.Error("the tokens of a host of the configuration are lost")
	}
	if len(c.cache) > maxNamed+1 || len(c.named) > maxNamed {
		t.Errorf("%d hosts are known", len(c.cache))
	}
}

// An upload whose token is good no more by the time that its content comes goes on with one of its own, which the
// uploads beside it do not use up.
func TestUploadWithATokenOfItsOwn(t *testing.T) {
	impatient(t)
	blob := []byte("content")
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	var target *remoteTarget
	var tries atomic.Int64
	r := serve(t, ServerOptions{}, func(h http.Handler) http.Handler {
		gated := (&gate{headers: bearer(`Bearer realm="REALM",` + asAsked), uses: 2}).wrap(h)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if uploads(r) {
				tries.Add(1)
				if _, err := target.begin(ctx, ""); err != nil { // another one, with the token that is there for all
					t.Error(err)
				}
			}
			gated.ServeHTTP(w, r)
		})
	})
	p, err := client(t, r).place(ref(t, r.host+"/team/web:1"), nil)
	check(t, err)
	target = &remoteTarget{place: p, src: content.FetcherFunc(
		func(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(blob)), nil
		})}
	check(t, target.Push(ctx, d, bytes.NewReader(blob)))
	if n := tries.Load(); n != 2 {
		t.Errorf("its content was sent %d times", n)
	}
}

// A large blob that goes in chunks outlives its tokens: each chunk is sent once.
func TestTokensEndAmongChunks(t *testing.T) {
	impatient(t)
	blob := bytes.Repeat([]byte("content "), 500_000)
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	var chunks, moved atomic.Int64
	r := serve(t, ServerOptions{}, func(h http.Handler) http.Handler {
		return (&gate{headers: bearer(`Bearer realm="REALM",` + asAsked), uses: 6}).wrap(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPatch {
					chunks.Add(1)
				}
				if isPut(r) && r.ContentLength > 0 {
					busy(http.StatusRequestEntityTooLarge, nil)(w, r)
					return
				}
				h.ServeHTTP(w, r)
			}))
	})
	p, err := client(t, r).place(ref(t, r.host+"/team/web:1"), nil)
	check(t, err)
	open := func() io.ReadCloser { return io.NopCloser(&countsRead{bytes.NewReader(blob), &moved}) }
	target := &remoteTarget{place: p, moved: func(n int64) { moved.Add(n) }, src: content.FetcherFunc(
		func(context.Context, ocispec.Descriptor) (io.ReadCloser, error) { return open(), nil })}
	check(t, target.Push(ctx, d, open()))
	if n, want := chunks.Load(), d.Size/chunkSize; n != want {
		t.Errorf("%d chunks were sent, want %d", n, want)
	}
	if n := moved.Load(); n != d.Size {
		t.Errorf("told were %d bytes of %d", n, d.Size)
	}
}

// The token of a registry is for no other host that it has an upload go on at: neither where one in chunks goes on with
// a new token, nor where a part of it is redirected.
func TestTokensStayAmongChunks(t *testing.T) {
	impatient(t)
	blob := bytes.Repeat([]byte("content "), 500_000)
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	for name, which := range map[string]func(*http.Request) bool{
		"goes on":    func(r *http.Request) bool { return r.Method == http.MethodGet && uploads(r) },
		"redirected": func(r *http.Request) bool { return r.Method == http.MethodPatch },
	} {
		t.Run(name, func(t *testing.T) {
			var ears listener
			var asked atomic.Int64
			storage := httptest.NewServer(ears.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Location", "/there")
				w.WriteHeader(http.StatusAccepted)
			})))
			defer storage.Close()
			there := strings.Replace(storage.Listener.Addr().String(), "127.0.0.1", "localhost", 1)
			away := func(status int, h http.Header) int {
				h.Set("Location", "http://"+there+"/there")
				if status == http.StatusAccepted {
					return http.StatusSeeOther
				}
				return status
			}
			r := serve(t, ServerOptions{}, func(h http.Handler) http.Handler {
				return (&gate{headers: bearer(`Bearer realm="REALM",` + asAsked), uses: 6}).wrap(http.HandlerFunc(
					func(w http.ResponseWriter, r *http.Request) {
						switch {
						case isPut(r) && r.ContentLength > 0:
							busy(http.StatusRequestEntityTooLarge, nil)(w, r)
							return
						case which(r):
							w = &edited{ResponseWriter: w, edit: away}
						}
						h.ServeHTTP(w, r)
					}))
			})
			p, err := client(t, r, Host{Name: there, PlainHTTP: true}).place(ref(t, r.host+"/team/web:1"), nil)
			check(t, err)
			open := func() io.ReadCloser { return io.NopCloser(bytes.NewReader(blob)) }
			target := &remoteTarget{place: p, src: content.FetcherFunc(
				func(context.Context, ocispec.Descriptor) (io.ReadCloser, error) { return open(), nil })}
			if err := target.Push(ctx, d, open()); err == nil {
				t.Error("the storage has nothing, and the blob is pushed")
			}
			if asked.Load() < 2 || ears.heard() > 0 {
				t.Errorf("the storage was asked %d times, and told %q", asked.Load(), ears.auth)
			}
		})
	}
}

type countsRead struct {
	io.Reader
	n *atomic.Int64
}

func (c *countsRead) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}
