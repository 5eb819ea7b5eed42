package registry

import (
	"context"
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
