package registry

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freejail/freejail/image/document"
)

// quirk is one way in which registries differ from what the specification, or this
// package, would have them be.
type quirk struct {
	wrap func(http.Handler) http.Handler
	// What the errors of a push and of a pull say; empty is that it works.
	push, pull string
	// What skopeo does otherwise, and why: "push", "pull" or both; "either" is that it
	// does now this and now that.
	differs, why string
	secret       bool // the registry wants fleet's password
	plain        bool // it has plain_http
}

// wrap puts a handler before another one.
func wrap(f func(w http.ResponseWriter, r *http.Request, next http.Handler)) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f(w, r, h) })
	}
}

// edited changes the head of an answer.
type edited struct {
	http.ResponseWriter
	edit func(status int, h http.Header) int
	done bool
}

func (e *edited) WriteHeader(status int) {
	if !e.done {
		e.done = true
		status = e.edit(status, e.Header())
	}
	e.ResponseWriter.WriteHeader(status)
}

func (e *edited) Write(b []byte) (int, error) {
	if !e.done {
		e.WriteHeader(http.StatusOK)
	}
	return e.ResponseWriter.Write(b)
}

// heads changes the heads of all answers.
func heads(edit func(r *http.Request, status int, h http.Header) int) func(http.Handler) http.Handler {
	return wrap(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&edited{ResponseWriter: w, edit: func(s int, h http.Header) int { return edit(r, s, h) }}, r)
	})
}

// typed has manifests be of a type, whatever they are of.
func typed(text string) func(http.Handler) http.Handler {
	return heads(func(r *http.Request, status int, h http.Header) int {
		if r.Method != http.MethodPut && strings.Contains(r.URL.Path, "/manifests/") && status == http.StatusOK {
			if h.Set("Content-Type", text); text == "" {
				h["Content-Type"] = nil
			}
		}
		return status
	})
}

// first answers the first request of some, each time that they are counted to n, in its own way.
func first(which func(*http.Request) bool, n int64, f http.HandlerFunc) func(http.Handler) http.Handler {
	var seen atomic.Int64
	return wrap(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if which(r) && seen.Add(1)%n == 1 {
			f(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func busy(status int, after func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if after != nil {
			w.Header().Set("Retry-After", after())
		}
		w.WriteHeader(status)
	}
}

func drop(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.CopyN(io.Discard, r.Body, 50_000)
	panic(http.ErrAbortHandler)
}

func any1(*http.Request) bool { return true }

func uploads(r *http.Request) bool {
	return strings.Contains(r.URL.Path, "/uploads/") && r.Method != http.MethodPost
}

func isPut(r *http.Request) bool { return r.Method == http.MethodPut }

func putsManifest(r *http.Request) bool {
	return isPut(r) && strings.Contains(r.URL.Path, "/manifests/")
}

// gate is a registry that wants tokens, with the server that gives them.
type gate struct {
	headers func(realm, repo, actions string) []string // of a 401
	answer  string                                     // of the token server; %s is the token
	strict  bool                                       // it knows these repositories and actions, or refuses
	status  int                                        // instead of 401
	uses    int                                        // of a token, after which it is too old
	secret  bool

	mu     sync.Mutex
	tokens map[string]*grant
}

type grant struct {
	scopes []string
	uses   int
}

func bearer(format string) func(realm, repo, actions string) []string {
	return func(realm, repo, actions string) []string {
		return []string{strings.NewReplacer("REALM", realm, "REPO", repo, "ACTIONS", actions).Replace(format)}
	}
}

func (g *gate) wrap(h http.Handler) http.Handler {
	g.tokens = map[string]*grant{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			g.give(w, r)
			return
		}
		rest := strings.TrimPrefix(r.URL.Path, "/v2/")
		repo := rest
		for _, part := range []string{"/blobs/", "/manifests/", "/referrers/", "/tags/"} {
			repo, _, _ = strings.Cut(repo, part)
		}
		actions := "pull,push"
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			actions = "pull"
		}
		if !g.covers(r, repo, actions) {
			for _, v := range g.headers("http://"+r.Host+"/token", repo, actions) {
				w.Header().Add("WWW-Authenticate", v)
			}
			status := http.StatusUnauthorized
			if g.status != 0 && r.Header.Get("Authorization") != "" {
				status = g.status
			}
			w.WriteHeader(status)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (g *gate) give(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	name, password, _ := r.BasicAuth()
	var scopes []string
	check := r.ParseForm()
	for _, s := range r.Form["scope"] {
		scopes = append(scopes, strings.Fields(s)...)
	}
	foreign := slices.ContainsFunc(scopes, func(s string) bool {
		return !strings.HasPrefix(s, "repository:team/") || strings.Contains(s, "delete")
	})
	if check != nil || g.secret && (name != "fleet" || password != fleetPassword) || g.strict && foreign {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	token := fmt.Sprintf("token-%d", len(g.tokens))
	g.tokens[token] = &grant{scopes: scopes}
	format := g.answer
	if format == "" {
		format = `{"token":"%s","expires_in":300}`
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, format, token)
}

// covers tells whether a request has a token for what it does.
func (g *gate) covers(r *http.Request, repo, actions string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	have := g.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	if have == nil {
		return false
	}
	if have.uses++; g.uses > 0 && have.uses > g.uses {
		return false
	}
	if repo == "" { // the ping
		return true
	}
	for a := range strings.SplitSeq(actions, ",") {
		if !slices.ContainsFunc(have.scopes, func(s string) bool {
			list, ok := strings.CutPrefix(s, "repository:"+repo+":")
			return ok && slices.Contains(strings.Split(list, ","), a) // it knows no *
		}) {
			return false
		}
	}
	return true
}

// scoped is a registry whose 401 names such a scope.
func scoped(scope string) func(http.Handler) http.Handler {
	return (&gate{headers: bearer(`Bearer realm="REALM",service="s",scope="` + scope + `"`)}).wrap
}

func saying(header string) func(http.Handler) http.Handler {
	return (&gate{headers: bearer(header)}).wrap
}

const asAsked = `scope="repository:REPO:ACTIONS"`

// invalid401 is what is said of a token that is too old.
func invalid401(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="s",error="invalid_token"`)
	w.WriteHeader(http.StatusUnauthorized)
}

// behind has the registry want tokens, and before that do something else.
func behind(f func(http.Handler) http.Handler) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler { return f(scoped("repository:REPO:ACTIONS")(h)) }
}

// elsewhere sends who asks for a blob to where no tokens are known, and who has any is
// refused: the registry by another name, a path of it, or another port.
func elsewhere(at func(r *http.Request, port string) string) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		open := http.StripPrefix("/cdn", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" && !strings.HasPrefix(r.Host, "127.") {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			h.ServeHTTP(w, r)
		}))
		_, port, _ := strings.Cut(httptest.NewServer(open).Listener.Addr().String(), ":")
		return behind(wrap(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			switch {
			case strings.HasPrefix(r.URL.Path, "/cdn/"):
				open.ServeHTTP(w, r)
			case r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:"):
				http.Redirect(w, r, at(r, port)+"/cdn"+r.URL.Path+"?sig=1", http.StatusTemporaryRedirect)
			default:
				next.ServeHTTP(w, r)
			}
		}))(h)
	}
}

func otherName(r *http.Request, _ string) string {
	return "http://" + strings.Replace(r.Host, "127.0.0.1", "localhost", 1)
}

// located changes where uploads go on; with a state without which they do not.
func located(f func(r *http.Request, path string) string) func(http.Handler) http.Handler {
	return wrap(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if uploads(r) && r.URL.Query().Get("_state") != "a+b==" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		edit := func(status int, h http.Header) int {
			if at := h.Get("Location"); at != "" && status == http.StatusAccepted {
				if u, err := url.Parse(at); err == nil {
					h.Set("Location", f(r, u.Path)+"?_state=a%2Bb%3D%3D")
				}
			}
			return status
		}
		next.ServeHTTP(&edited{ResponseWriter: w, edit: edit}, r)
	})
}

// awayWithout has uploads go on at another host, which refuses whoever brings along the
// registry's credentials.
func awayWithout(h http.Handler) http.Handler {
	away := located(func(r *http.Request, p string) string {
		return "http://" + strings.Replace(r.Host, "127.0.0.1", "localhost", 1) + p
	})
	gated := behind(away)(h)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.HasPrefix(r.Host, "localhost"):
			gated.ServeHTTP(w, r)
		case r.Header.Get("Authorization") != "":
			w.WriteHeader(http.StatusBadRequest)
		default:
			away(h).ServeHTTP(w, r)
		}
	})
}

func always(which func(*http.Request) bool, status int) func(http.Handler) http.Handler {
	return wrap(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if which(r) {
			busy(status, nil)(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func method(m, part string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == m && strings.Contains(r.URL.Path, part) }
}

func ping(r *http.Request) bool { return r.URL.Path == "/v2/" }

func soon() string { return time.Now().Add(time.Second).UTC().Format(http.TimeFormat) }

func unheaded(name string) func(http.Handler) http.Handler {
	return heads(func(_ *http.Request, status int, h http.Header) int {
		h[name] = nil
		return status
	})
}

func createdAs(as int, keepDigest bool) func(http.Handler) http.Handler {
	return heads(func(r *http.Request, status int, h http.Header) int {
		if status != http.StatusCreated {
			return status
		}
		if !keepDigest {
			h.Del(digestHeader)
		}
		return as
	})
}

var quirks = map[string]quirk{
	// The scope that a 401 names.
	"scope as asked":         {wrap: scoped("repository:REPO:ACTIONS")},
	"scope *":                {wrap: scoped("*")},
	"scope in another order": {wrap: scoped("repository:REPO:push,pull")},
	"scope with delete":      {wrap: scoped("repository:REPO:pull,push,delete")},
	"scope pull alone":       {wrap: scoped("repository:REPO:pull")},
	"scope of all actions":   {wrap: scoped("repository:REPO:*")},
	"scope of others": {wrap: scoped(
		"repository:REPO:pull,push repository:other/base:pull registry:catalog:*")},
	"scope of another":          {wrap: scoped("repository:user/image:pull")},
	"scope with blanks":         {wrap: scoped("  repository:REPO:ACTIONS   repository:b:pull ")},
	"scope empty":               {wrap: scoped("")},
	"scope missing":             {wrap: saying(`Bearer realm="REALM",service="s"`)},
	"scope of nonsense":         {wrap: scoped("::, :")},
	"scope and service missing": {wrap: saying(`Bearer realm="REALM"`)},
	"scope that its own token server refuses": {wrap: (&gate{headers: bearer(`Bearer realm="REALM",scope="*"`),
		strict: true}).wrap},
	"scope too small told by 403": {wrap: (&gate{status: http.StatusForbidden, headers: bearer(
		`Bearer realm="REALM",error="insufficient_scope",` + asAsked)}).wrap},
	// How a 401 is written.
	"challenge in lower case": {wrap: saying(
		`bearer realm="REALM",service="s",` + asAsked + `,error="invalid_token"`)},
	"challenge in odd case": {wrap: saying(
		`BEARER Realm="REALM", Service="s", Scope="repository:REPO:ACTIONS"`)},
	"challenge without quotes": {wrap: saying(`Bearer realm="REALM", service=s, ` + asAsked)},
	"challenge with commas and escapes": {wrap: saying(
		`Bearer realm="REALM?a=b",service="my \"svc\", inc",` + asAsked)},
	"challenge after Basic": {wrap: saying(`Basic realm="x", Bearer realm="REALM",service="s",` + asAsked),
		differs: "push pull",
		why:     firstOnly},
	"challenge before Basic": {wrap: saying(`Bearer realm="REALM",service="s",` + asAsked + `, Basic realm="x"`)},
	"challenge after a token": {wrap: saying(`Negotiate abc==, Bearer realm="REALM",` + asAsked),
		differs: "push pull",
		why:     firstOnly},
	"challenges in two headers": {wrap: (&gate{headers: func(realm, repo, actions string) []string {
		return append(bearer(`Basic realm="x"`)(realm, repo, actions),
			bearer(`Bearer realm="REALM",`+asAsked)(realm, repo, actions)...)
	}}).wrap, differs: "push pull",
		why: firstOnly},
	"realm relative": {wrap: saying(`Bearer realm="/token",service="s",` + asAsked), differs: "push pull",
		why: "skopeo wants the realm with its host"},
	// Tokens.
	"token as access_token": {wrap: (&gate{headers: bearer(`Bearer realm="REALM",` + asAsked),
		answer: `{"access_token":"%s","expires_in":60}`}).wrap},
	"token without expires_in": {wrap: (&gate{headers: bearer(`Bearer realm="REALM",` + asAsked),
		answer: `{"token":"%s"}`}).wrap},
	"token for a moment": {wrap: (&gate{headers: bearer(`Bearer realm="REALM",` + asAsked),
		answer: `{"token":"%s","expires_in":1,"issued_at":"2001-01-01T00:00:00Z"}`}).wrap},
	"token for credentials": {secret: true, plain: true, wrap: (&gate{secret: true,
		headers: bearer(`Bearer realm="REALM",` + asAsked)}).wrap},
	"token for credentials without plain_http": {secret: true, wrap: (&gate{secret: true,
		headers: bearer(`Bearer realm="REALM",` + asAsked)}).wrap, push: "--plain-http", pull: "--plain-http",
		differs: "push pull", why: "skopeo has tls-verify=false"},
	"token good for three requests": {wrap: (&gate{headers: bearer(`Bearer realm="REALM",` + asAsked), uses: 3}).wrap,
		differs: "either",
		why:     onlyBusy},
	"token refused at first": {wrap: behind(first(func(r *http.Request) bool {
		return r.Header.Get("Authorization") != ""
	}, 1<<62, invalid401)), differs: "either", why: onlyBusy},
	"token too old for a blob":     {wrap: behind(first(uploads, 1<<62, invalid401))},
	"token too old for a manifest": {wrap: behind(first(putsManifest, 1<<62, invalid401))},
	"forbidden": {wrap: always(any1, http.StatusForbidden),
		push: "access denied", pull: "access denied"},
	// Load and trouble.
	"429 with seconds": {wrap: first(any1, 7, busy(http.StatusTooManyRequests, func() string { return "1" })),
		differs: "either",
		why:     onlyBusy},
	"429 with a date": {wrap: first(any1, 7, busy(http.StatusTooManyRequests, soon)), differs: "either",
		why: onlyBusy},
	"429 to a blob": {wrap: first(
		uploads, 1<<62, busy(http.StatusTooManyRequests, func() string { return "1" }))},
	"429 to a manifest": {wrap: first(putsManifest, 1<<62, busy(http.StatusTooManyRequests, nil))},
	"502": {wrap: first(any1, 5, busy(http.StatusBadGateway, nil)), differs: "either",
		why: onlyBusy},
	"503": {wrap: first(any1, 5, busy(http.StatusServiceUnavailable, nil)), differs: "either",
		why: onlyBusy},
	"504": {wrap: first(any1, 5, busy(http.StatusGatewayTimeout, nil)), differs: "either",
		why: onlyBusy},
	"reset of every fifth": {wrap: first(any1, 5, drop), differs: "either",
		why: onlyBusy},
	"reset of an upload": {wrap: first(uploads, 1<<62, drop)},
	"reset of downloads": {wrap: breaking(100_000, true), differs: "either",
		why: "skopeo goes on but a few times"},
	// Uploads.
	"location relative": {wrap: located(func(_ *http.Request, p string) string { return p })},
	"location absolute": {wrap: located(func(r *http.Request, p string) string { return "http://" + r.Host + p })},
	"location on another host": {wrap: located(func(r *http.Request, p string) string {
		return "http://" + strings.Replace(r.Host, "127.0.0.1", "localhost", 1) + p
	})},
	"location that takes no credentials": {wrap: awayWithout, differs: "push",
		why: "skopeo brings them along"},
	"whole blobs too large": {wrap: wrap(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if uploads(r) && r.ContentLength > 150_000 {
			busy(http.StatusRequestEntityTooLarge, nil)(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})},
	"no whole blobs": {wrap: wrap(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if uploads(r) && isPut(r) && r.ContentLength > 0 {
			busy(http.StatusMethodNotAllowed, nil)(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})},
	"no chunks": {wrap: always(method(http.MethodPatch, "/"), http.StatusMethodNotAllowed), differs: "push",
		why: "skopeo sends blobs with PATCH alone"},
	"blob kept with 204": {wrap: heads(func(r *http.Request, status int, _ http.Header) int {
		if status == http.StatusCreated && strings.Contains(r.URL.Path, "/blobs/") {
			return http.StatusNoContent
		}
		return status
	}), differs: "push", why: "skopeo wants 201"},
	// Manifests.
	"manifests as text": {wrap: typed("text/plain; charset=utf-8"), differs: "pull", why: byHeader},
	"manifests as JSON": {wrap: typed("application/json"), differs: "pull",
		why: byHeader},
	"manifests as bytes":       {wrap: typed("application/octet-stream"), differs: "pull", why: byHeader},
	"manifests with a charset": {wrap: typed(ociManifest + "; charset=utf-8")},
	"manifests without a type": {wrap: typed(""), differs: "pull", why: byHeader},
	"manifests of a wrong type": {wrap: typed(document.DockerManifest), differs: "pull",
		why: byHeader},
	"manifests without their digest": {wrap: unheaded(digestHeader)},
	"manifests without their length": {wrap: unheaded("Content-Length")},
	"manifest kept with 200": {wrap: createdAs(http.StatusOK, true),
		differs: "push", why: "skopeo wants 201 of a blob"},
	"anything answered with 200": {wrap: createdAs(http.StatusOK, false), push: "neither 201 nor"},
	"HEAD not supported": {wrap: always(method(http.MethodHead, "/"), http.StatusMethodNotAllowed), differs: "push",
		why: "skopeo needs it of blobs"},
	"HEAD forbidden": {wrap: always(method(http.MethodHead, "/"), http.StatusForbidden), differs: "push",
		why: "skopeo needs it of blobs"},
	"manifest kept as another": {wrap: heads(func(r *http.Request, status int, h http.Header) int {
		if putsManifest(r) {
			h.Set(digestHeader, someDigest)
		}
		return status
	}), push: "it has changed it",
		differs: "push", why: "skopeo does not look"},
	"OCI manifests refused": {wrap: wrap(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if putsManifest(r) && strings.Contains(r.Header.Get("Content-Type"), ".oci.") {
			w.WriteHeader(http.StatusUnsupportedMediaType)
			return
		}
		next.ServeHTTP(w, r)
	}), push: "415"},
	// The rest.
	"no version of the API": {wrap: unheaded("Docker-Distribution-Api-Version")},
	"no ping": {wrap: always(ping, http.StatusNotFound), differs: "push pull",
		why: pings},
	"ping denied":            {wrap: always(ping, http.StatusUnauthorized)},
	"no referrers":           {wrap: always(method(http.MethodGet, "/referrers/"), http.StatusNotFound)},
	"redirect to a host":     {wrap: elsewhere(otherName)},
	"redirect within a host": {wrap: elsewhere(func(*http.Request, string) string { return "" })},
	"redirect to a port": {wrap: elsewhere(func(_ *http.Request, port string) string {
		return "http://127.0.0.1:" + port
	}), pull: "plain HTTP is not enabled for", differs: "pull", why: anyPort},
	"realm on a port": {wrap: (&gate{headers: func(_, _, _ string) []string {
		return []string{`Bearer realm="http://127.0.0.1:1/token"`}
	}}).wrap, push: "plain HTTP is not enabled for", pull: "plain HTTP is not enabled for"},
}

const (
	onlyBusy    = "skopeo repeats but a part of its requests"
	firstOnly   = "skopeo takes the first challenge alone"
	byHeader    = "skopeo goes by the header alone"
	anyPort     = "skopeo goes to any port of this host"
	pings       = "skopeo asks first whether it is a registry"
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
)

// Every quirk, with a push and a pull by this package and by skopeo, which does the
// same but where a row says why not. Only credentials need plain_http: they are all on
// this host.
func TestQuirks(t *testing.T) {
	impatient(t)
	dir, img := someImage(t)
	t.Run("rows", func(t *testing.T) {
		for name, q := range quirks {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				q.run(t, dir, img.Digest.String())
			})
		}
	})
}

func (q quirk) run(t *testing.T, dir, want string) {
	cfg := Config{}
	auth := filepath.Join(t.TempDir(), "auth.json")
	r := serve(t, ServerOptions{}, q.wrap)
	text := "{}"
	if q.secret {
		text = fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, r.host,
			base64.StdEncoding.EncodeToString([]byte("fleet:"+fleetPassword)))
	}
	check(t, os.WriteFile(auth, []byte(text), 0o600))
	cfg.AuthFiles = []string{auth}
	if q.plain {
		cfg.Hosts = []Host{{Name: r.host, PlainHTTP: true}}
	}
	c, err := NewClient(cfg)
	check(t, err)
	_, err = c.Copy(ctx, loc(t, "oci:"+dir), loc(t, r.host+"/team/app:1"), CopyOptions{})
	q.outcome(t, "push", q.push, err)
	q.outcome(t, "skopeo's push", q.skopeoWant("push"), skopeo(t, auth, "--dest-", "oci:"+dir+":web",
		"docker://"+r.host+"/team/skopeo:1"))
	plain := httptest.NewServer(r.srv)
	defer plain.Close()
	direct := strings.TrimPrefix(plain.URL, "http://")
	for _, name := range []string{"/team/app:1", "/team/skopeo:1"} { // so that there is something to pull
		_, err = client(t).Copy(ctx, loc(t, "oci:"+dir), loc(t, direct+name), CopyOptions{})
		check(t, err)
	}
	got, err := c.Pull(ctx, newStore(t), ref(t, r.host+"/team/app:1"), PullOptions{})
	q.outcome(t, "pull", q.pull, err)
	if err == nil && got.Digest.String() != want {
		t.Errorf("got %s, want %s", got.Digest, want)
	}
	q.outcome(t, "skopeo's pull", q.skopeoWant("pull"), skopeo(t, auth, "--src-", "docker://"+r.host+"/team/app:1",
		"oci:"+filepath.Join(t.TempDir(), "x")+":x"))
}

func (q quirk) skopeoWant(what string) string {
	own := map[string]string{"push": q.push, "pull": q.pull}[what]
	if !strings.Contains(q.differs, what) {
		return own
	}
	if own == "" {
		return " "
	}
	return ""
}

var errNoTool = errors.New("skopeo is not here")

// skopeo copies, and returns what it says where it fails.
func skopeo(t *testing.T, auth, prefix, from, to string) error {
	if _, err := exec.LookPath("skopeo"); err != nil {
		return errNoTool
	}
	cmd := exec.CommandContext(t.Context(), "skopeo", "--insecure-policy", "copy", prefix+"authfile="+auth,
		prefix+"tls-verify=false", from, to)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (q quirk) outcome(t *testing.T, what, want string, err error) {
	t.Helper()
	switch {
	case errors.Is(err, errNoTool), q.differs == "either" && strings.HasPrefix(what, "skopeo"):
	case want == "" && err != nil:
		t.Errorf("%s: %v", what, err)
	case want != "" && err == nil:
		t.Errorf("%s: it works; want an error with %q (%s)", what, want, q.why)
	case want != "" && !strings.HasPrefix(what, "skopeo") && !strings.Contains(err.Error(), want):
		t.Errorf("%s: %v; want an error with %q", what, err, want)
	}
}

// Where blobs of another repository are not mounted, they are sent.
func TestMountRefused(t *testing.T) {
	impatient(t)
	mounting := func(r *http.Request) bool { return r.URL.Query().Has("mount") }
	for name, f := range map[string]func(http.Handler) http.Handler{
		"202": wrap(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if mounting(r) {
				r.URL.RawQuery = ""
			}
			next.ServeHTTP(w, r)
		}),
		"202 and a broken upload": wrap(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if mounting(r) {
				w.Header().Set("Location", "/v2/team/copy/blobs/uploads/up-gone")
				w.WriteHeader(http.StatusAccepted)
				return
			}
			next.ServeHTTP(w, r)
		}),
		"405": always(mounting, http.StatusMethodNotAllowed),
		"403": always(mounting, http.StatusForbidden),
	} {
		r, img := pushed(t, ServerOptions{}, f)
		c := client(t)
		done, err := c.Copy(ctx, loc(t, r.host+"/team/web:1"), loc(t, r.host+"/team/copy:1"), CopyOptions{})
		if err != nil || done.Digest != img.Digest {
			t.Errorf("%s: %+v, %v", name, done, err)
		}
		if _, err = c.Pull(ctx, newStore(t), ref(t, r.host+"/team/copy:1"), PullOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Where tags must not be changed, an image is pushed again under its tag, and another is not. A repository that has to be
// there before is named.
func TestTagsThatStay(t *testing.T) {
	say := func(w http.ResponseWriter, status int, code string) {
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"as the cloud says"}]}`, code)
	}
	var pushed atomic.Bool
	r := serve(t, ServerOptions{}, wrap(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch {
		case r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/none/"):
			say(w, http.StatusNotFound, "NAME_UNKNOWN")
		case method(http.MethodPut, "/manifests/1")(r) && pushed.Swap(true):
			say(w, http.StatusBadRequest, "TAG_INVALID")
		default:
			next.ServeHTTP(w, r)
		}
	}))
	c := client(t)
	dir, _ := someImage(t)
	push := func(dir, to string) error {
		_, err := c.Copy(ctx, loc(t, "oci:"+dir), loc(t, r.host+to), CopyOptions{})
		return err
	}
	check(t, push(dir, "/team/web:1"))
	check(t, push(dir, "/team/web:1"))
	s := newStore(t)
	putImage(t, s, "web", host, layer(t, "other", 1000))
	wantError(t, push(layoutOf(t, s, "web"), "/team/web:1"), "give another tag", "as the cloud says")
	wantError(t, push(dir, "/none/web:1"), "create it there first", "as the cloud says")
}

// A Retry-After is followed in both forms, and within bounds; not by all in the same moment.
func TestRetryAfter(t *testing.T) {
	const most = maxRetryAfter + maxRetryAfter/2
	for text, want := range map[string][2]time.Duration{
		"0": {0, 0}, "3": {3 * time.Second, 4500 * time.Millisecond}, "86400": {maxRetryAfter, most},
		time.Now().Add(10 * time.Second).UTC().Format(http.TimeFormat): {8 * time.Second, 15 * time.Second},
		time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat):       {0, 0},
		time.Now().Add(1000 * time.Hour).UTC().Format(http.TimeFormat): {maxRetryAfter, most},
	} {
		resp := &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {text}}}
		got, err := patience{}.Retry(0, resp, nil)
		if err != nil || got < want[0] || got > want[1] {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
	busy := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"30"}}}
	told := map[time.Duration]int{}
	for range 100 {
		got, err := patience{}.Retry(0, busy, nil)
		check(t, err)
		told[got.Truncate(time.Second)]++
	}
	if len(told) < 5 {
		t.Errorf("a hundred hosts come back within %d seconds", len(told))
	}
	for _, status := range []int{http.StatusNotImplemented, http.StatusNotFound, http.StatusForbidden} {
		if got, _ := (patience{}).Retry(0, &http.Response{StatusCode: status}, nil); got >= 0 {
			t.Errorf("%d is tried again", status)
		}
	}
}
