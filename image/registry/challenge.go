package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// challenge is one way to authenticate that an answer offers.
type challenge struct {
	scheme string // in lower case
	params map[string]string
}

// parseChallenges reads WWW-Authenticate headers, each with one challenge or more:
// RFC 9110, section 11.6.1. What is malformed is left out.
func parseChallenges(headers []string) (out []challenge) {
	for _, rest := range headers {
		for rest = skipBlank(rest); rest != ""; rest = skipBlank(rest) {
			var word, value string
			if word, rest = cutToken(rest); word == "" {
				break
			}
			after := strings.TrimLeft(rest, " \t")
			if !strings.HasPrefix(after, "=") {
				out = append(out, challenge{strings.ToLower(word), map[string]string{}})
				continue
			}
			value, rest = cutValue(strings.TrimLeft(after[1:], " \t"))
			if len(out) > 0 {
				out[len(out)-1].params[strings.ToLower(word)] = value
			}
		}
	}
	return out
}

// skipBlank also skips commas, and the = that end what is no parameter.
func skipBlank(s string) string { return strings.TrimLeft(s, " \t,=") }

func cutToken(s string) (token, rest string) {
	end := strings.IndexAny(s, " \t,=\"")
	if end < 0 {
		end = len(s)
	}
	return s[:end], s[end:]
}

// cutValue reads a token or a quoted string.
func cutValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		end := strings.IndexAny(s, " \t,")
		if end < 0 {
			end = len(s)
		}
		return s[:end], s[end:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:]
		case s[i] == '\\' && i+1 < len(s):
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), ""
}

// choose prefers Bearer to Basic, as it can do without credentials.
func choose(list []challenge) (challenge, bool) {
	for _, want := range []string{"bearer", "basic"} {
		i := slices.IndexFunc(list, func(c challenge) bool {
			return c.scheme == want && (want == "basic" || c.params["realm"] != "")
		})
		if i >= 0 {
			return list[i], true
		}
	}
	return challenge{}, false
}

// challenged has the client see one challenge in the usual form, however a registry
// puts it: several in one header or in several, realms relative to the registry, a
// scope with blanks, and a scope that is missing told by 403.
type challenged struct{ next http.RoundTripper }

func (c *challenged) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
		return resp, err
	}
	one, ok := choose(parseChallenges(resp.Header.Values("Www-Authenticate")))
	if !ok || resp.StatusCode == http.StatusForbidden && one.params["error"] != "insufficient_scope" {
		return resp, nil
	}
	resp.StatusCode = http.StatusUnauthorized
	if one.scheme == "basic" {
		resp.Header.Set("Www-Authenticate", "Basic")
		return resp, nil
	}
	realm := one.params["realm"]
	if u, err := req.URL.Parse(realm); err == nil {
		realm = u.String()
	}
	header := "Bearer realm=" + strconv.Quote(realm) + ",service=" + strconv.Quote(one.params["service"])
	if scope := scopesOf(req, one.params["scope"]); scope != "" {
		header += ",scope=" + strconv.Quote(scope)
	}
	resp.Header.Set("Www-Authenticate", header)
	return resp, nil
}

// asked notes what a challenge has asked for. A scope that the client would not have
// asked for by itself may be nonsense, which some token servers refuse.
type asked struct {
	mu      sync.Mutex
	token   bool
	foreign bool   // a scope that is not the request's own
	own     bool   // ask for nothing else
	last    bool   // what others have got meanwhile may be refused as well: it takes a token of its own
	sent    string // the token that the request went with
}

type askedKey struct{}

// aloneKey marks the context of a request that has a token of its own, which no other uses up.
type aloneKey struct{}

func isAlone(ctx context.Context) bool { return ctx.Value(aloneKey{}) != nil }

// scopesOf are those of a challenge that are asked for beside the request's own.
func scopesOf(req *http.Request, text string) string {
	scopes := strings.Fields(text)
	note, ok := req.Context().Value(askedKey{}).(*asked)
	if !ok {
		return strings.Join(scopes, " ")
	}
	note.mu.Lock()
	defer note.mu.Unlock()
	note.token = true
	if note.own {
		return ""
	}
	own := auth.GetAllScopesForHost(req.Context(), req.URL.Host)
	note.foreign = slices.ContainsFunc(scopes, func(s string) bool { return !slices.Contains(own, s) })
	return strings.Join(scopes, " ")
}

// again tells whether another token may do better: instead of one that was refused by
// its own registry, or of one that a token server did not give for a foreign scope.
func (a *asked) again(resp *http.Response, err error) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.own = a.foreign
	var answer *errcode.ErrorResponse
	if errors.As(err, &answer) { // what a registry answers is no error
		a.last = a.foreign && answer.StatusCode < 500
	} else {
		a.last = err == nil && a.token && resp.StatusCode == http.StatusUnauthorized
	}
	return a.last
}

// lastTry tells whether a request is tried for the last time, and whether that is because of a foreign scope.
func lastTry(ctx context.Context) (last, foreign bool) {
	a, ok := ctx.Value(askedKey{}).(*asked)
	if !ok {
		return false, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last, a.own
}

// note keeps which token a request of the client goes with.
func note(ctx context.Context, token string) {
	if a, ok := ctx.Value(askedKey{}).(*asked); ok {
		a.mu.Lock()
		a.sent = token
		a.mu.Unlock()
	}
}

// sent is the token that was noted last; empty is none.
func sent(ctx context.Context) string {
	a, ok := ctx.Value(askedKey{}).(*asked)
	if !ok {
		return ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sent
}

// denies tells whether an answer refuses who asks, and offers no other way. Of a token that has ended Amazon's registry
// says 403, its public one 400; neither has a challenge, by which others have a new token be fetched.
func denies(resp *http.Response) bool {
	switch {
	case resp.StatusCode == http.StatusForbidden:
		return true
	case resp.StatusCode != http.StatusBadRequest:
		return false
	case resp.Request.Method == http.MethodHead: // whose answer says no more
		return true
	}
	b, err := refusal(resp)
	resp.Body = &reread{io.MultiReader(bytes.NewReader(b), resp.Body), resp.Body}
	var said struct {
		Errors errcode.Errors `json:"errors"`
	}
	if err != nil || json.Unmarshal(b, &said) != nil {
		return false
	}
	return slices.ContainsFunc(said.Errors, func(e errcode.Error) bool {
		return e.Code == errcode.ErrorCodeDenied || e.Code == errcode.ErrorCodeUnauthorized
	})
}

// maxRefusal bounds what is read of an answer to know what it is about, in bytes.
const maxRefusal = 8 << 10

// refusal reads the first bytes of the body of an answer that is no success.
func refusal(resp *http.Response) ([]byte, error) {
	return io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
}

// reread is a body of which a part was read before.
type reread struct {
	io.Reader
	io.Closer
}

// young is how old a token is at most whose refusal is about what it was used for: none ends that soon. It is a
// variable for tests.
var young = time.Minute

// Bounds of what is kept of a registry, which says how large its tokens are and whatever scopes it likes.
const (
	maxToken  = 16 << 10 // bytes, with its scopes
	maxScopes = 64       // of one registry; then its tokens are fetched anew
)

// tokens finds a token again by the scopes that a request asks for by itself, whatever
// else a registry has had it ask for.
type tokens struct {
	mu    sync.Mutex
	cache auth.Cache
	got   map[string]gotToken // those in the cache, by scheme and scopes
}

// gotToken is which token it is, and since when it is there.
type gotToken struct {
	sum   [sha256.Size]byte
	since time.Time
}

func newTokens() *tokens {
	return &tokens{cache: auth.NewCache(), got: map[string]gotToken{}}
}

func (t *tokens) now() auth.Cache {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cache
}

// forget has new tokens be fetched.
func (t *tokens) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetLocked()
}

func (t *tokens) forgetLocked() { t.cache, t.got = auth.NewCache(), map[string]gotToken{} }

// renew tells whether another token may be taken where one was refused. Of several requests that had the same the first
// has a new one be fetched, for all of them.
func (t *tokens) renew(token string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	since, known := t.since(sha256.Sum256([]byte(token)))
	if token == "" || known && time.Since(since) < young {
		return false
	}
	if known {
		t.forgetLocked()
	}
	return true
}

// since is for who holds the lock.
func (t *tokens) since(sum [sha256.Size]byte) (since time.Time, known bool) {
	for _, g := range t.got {
		if g.sum == sum {
			return g.since, true
		}
	}
	return time.Time{}, false
}

// keep notes since when a token is in a cache, in the place of the one before it.
func (t *tokens) keep(cache auth.Cache, scheme auth.Scheme, key, token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cache != t.cache {
		return
	}
	sum, at := sha256.Sum256([]byte(token)), scheme.String()+" "+key
	if _, has := t.got[at]; !has && len(t.got) >= maxScopes {
		t.forgetLocked()
		return
	}
	since, known := t.since(sum)
	if !known {
		since = time.Now()
	}
	t.got[at] = gotToken{sum, since}
}

// keepable refuses a token that is too large to be kept.
func keepable(scheme auth.Scheme, key string, fetch tokenFunc) tokenFunc {
	return func(ctx context.Context) (string, error) {
		token, err := fetch(ctx)
		if n := len(token) + len(key); err == nil && scheme == auth.SchemeBearer && n > maxToken {
			return "", fmt.Errorf("a token with its scopes has %d bytes, over the limit of %d", n, maxToken)
		}
		return token, err
	}
}

type tokenFunc = func(context.Context) (string, error)

func (t *tokens) GetScheme(ctx context.Context, host string) (auth.Scheme, error) {
	return t.now().GetScheme(ctx, host)
}

func (t *tokens) GetToken(ctx context.Context, host string, scheme auth.Scheme, key string) (string, error) {
	if scheme == auth.SchemeBearer && isAlone(ctx) {
		return "", errdef.ErrNotFound
	}
	token, err := t.now().GetToken(ctx, host, scheme, key)
	if err == nil {
		note(ctx, token)
	}
	return token, err
}

func (t *tokens) Set(ctx context.Context, host string, scheme auth.Scheme, key string,
	fetch func(context.Context) (string, error)) (string, error) {
	cache := t.now()
	fetch = keepable(scheme, key, fetch)
	if last, foreign := lastTry(ctx); last {
		token, err := fetch(ctx)
		if err == nil && foreign { // those that follow need not ask for what is refused
			err = t.put(ctx, cache, host, scheme, key, token)
		}
		return token, err
	}
	token, err := shared(ctx, cache, host, scheme, key, fetch)
	if err == nil {
		t.keep(cache, scheme, key, token)
		note(ctx, token)
	}
	own := strings.Join(auth.GetAllScopesForHost(ctx, host), " ")
	if err != nil || scheme != auth.SchemeBearer || own == key {
		return token, err
	}
	return token, t.put(ctx, cache, host, scheme, own, token)
}

// put has a token that is there be found by a key.
func (t *tokens) put(ctx context.Context, cache auth.Cache, host string, scheme auth.Scheme, key, token string) error {
	_, err := cache.Set(ctx, host, scheme, key, func(context.Context) (string, error) { return token, nil })
	if err == nil {
		t.keep(cache, scheme, key, token)
	}
	return err
}

// shared gets a token, or takes the one that another request has fetched while this one was refused.
func shared(ctx context.Context, cache auth.Cache, host string, scheme auth.Scheme, key string,
	fetch func(context.Context) (string, error)) (string, error) {
	refused := sent(ctx)
	return cache.Set(ctx, host, scheme, key, func(ctx context.Context) (string, error) {
		if other, err := cache.GetToken(ctx, host, scheme, key); err == nil && other != refused {
			return other, nil
		}
		return fetch(ctx)
	})
}
