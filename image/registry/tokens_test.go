package registry

import (
	"context"
	"fmt"
	"strings"
	"testing"

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
