package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/freejail/freejail/internal/cafile"
	"github.com/freejail/freejail/internal/imagename"
)

// Host is how one registry is reached.
type Host struct {
	Name      string // host or host:port
	PlainHTTP bool   // HTTP instead of HTTPS; nowhere else is HTTP spoken
	CAFile    string // PEM, beside the system's certificates
	// AuthFile is in docker's or podman's format, with credential helpers.
	// Username with PasswordFile comes before it.
	AuthFile, Username, PasswordFile string
	// Mirrors are asked first, as host[:port][/prefix], each by its own Host
	// settings. They never see this host's credentials.
	Mirrors []string
}

// Credential is a user's for one registry.
type Credential struct{ Username, Password string }

// Config is how registries are reached.
type Config struct {
	Hosts     []Host
	AuthFiles []string // for hosts without credentials of their own; the first that knows a host counts
	UserAgent string
	// LoopbackLogins are those of who runs the program, and names the registry: they go
	// to a registry of this host without TLS, too. For others it takes PlainHTTP.
	LoopbackLogins bool
	// Apart is for a program in which there are several hosts; nil is this process as one.
	Apart *Apart
}

// Apart sets a client off from the others of its process.
type Apart struct {
	Wire http.RoundTripper // instead of connections; its pulls take turns among themselves alone
}

// Client reads and writes registries. It may be used from several goroutines.
type Client struct {
	hosts     map[string]Host
	authFiles []string
	agent     string
	http      *http.Client
	warn      func(string)
	logins    bool // Config.LoopbackLogins
	turns     *turns

	mu    sync.Mutex
	cache map[string]*tokens // by scheme and host
	named []string           // keys of the cache whose hosts jobs have named, not the configuration; the last used last
}

// maxNamed bounds the hosts of which tokens are kept though the configuration does not name them.
const maxNamed = 32

// NewClient checks a configuration and makes a client of it. Files with
// credentials are read when they are needed.
func NewClient(c Config) (*Client, error) {
	out := &Client{hosts: map[string]Host{}, authFiles: c.AuthFiles, agent: c.UserAgent, warn: func(string) {},
		logins: c.LoopbackLogins, turns: pulls, cache: map[string]*tokens{}}
	wires := &wires{plain: map[string]bool{}, own: map[string]http.RoundTripper{}, any: transport(nil)}
	for _, h := range c.Hosts {
		if err := checkHost(h.Name); err != nil {
			return nil, fmt.Errorf("registry %q: %w", h.Name, err)
		}
		if h.PlainHTTP && strings.HasSuffix(h.Name, ":443") {
			return nil, fmt.Errorf("registry %q: plain_http with the port of HTTPS: name another, or leave one out",
				h.Name)
		}
		h.Name = imagename.Host(h.Name)
		if _, twice := out.hosts[h.Name]; twice {
			return nil, fmt.Errorf("registry %q: given twice", h.Name)
		}
		if err := h.check(); err != nil {
			return nil, fmt.Errorf("registry %q: %w", h.Name, err)
		}
		out.hosts[h.Name] = h
		wires.plain[h.Name] = h.PlainHTTP
		if h.CAFile != "" {
			pool, err := cafile.Pool(h.CAFile)
			if err != nil {
				return nil, fmt.Errorf("registry %q: ca_file: %w", h.Name, err)
			}
			wires.own[h.Name] = transport(pool)
		}
	}
	for name := range out.hosts {
		if bare, ok := strings.CutSuffix(name, ":80"); ok && out.hosts[bare].PlainHTTP {
			return nil, fmt.Errorf("registry %q: same as %q, which uses plain HTTP", name, bare)
		}
	}
	var base http.RoundTripper = wires
	if c.Apart != nil {
		base, out.turns = c.Apart.Wire, newTurns()
	}
	out.http = &http.Client{Transport: &challenged{newRepeating(&paced{base})}}
	return out, nil
}

// OnWarning has f hear, once each, of what is not as configured and no error. It is
// called before the client is used.
func (c *Client) OnWarning(f func(string)) {
	var told sync.Map
	c.warn = func(text string) {
		if _, before := told.LoadOrStore(text, true); !before {
			f(text)
		}
	}
}

// Canonical is a reference as its image is called here: of a registry that speaks
// plain HTTP the host is without that port.
func (c *Client) Canonical(ref Reference) Reference {
	if bare, ok := strings.CutSuffix(ref.Host, ":80"); ok && c.hosts[bare].PlainHTTP {
		ref.Host = bare
	}
	return ref
}

func (h Host) check() error {
	switch {
	case h.PlainHTTP && h.CAFile != "":
		return errors.New("plain_http and ca_file exclude each other")
	case h.Username != "" && h.PasswordFile == "":
		return errors.New("username without password_file")
	case h.Username == "" && h.PasswordFile != "":
		return errors.New("password_file without username")
	case h.Username != "" && h.AuthFile != "":
		return errors.New("auth_file and username exclude each other")
	}
	for _, m := range h.Mirrors {
		if _, err := mirrored(m, "x"); err != nil {
			return fmt.Errorf("mirror %q: %w", m, err)
		}
	}
	return nil
}

// mirrored is where a mirror has a repository.
func mirrored(mirror, repository string) (Reference, error) {
	host, prefix, _ := strings.Cut(mirror, "/")
	if err := checkHost(host); err != nil {
		return Reference{}, err
	}
	host = imagename.Host(host)
	if prefix != "" {
		if !repositoryName.MatchString(prefix) {
			return Reference{}, fmt.Errorf("%q is not a valid repository name", prefix)
		}
		repository = prefix + "/" + repository
	}
	return Reference{Host: host, Repository: repository}, nil
}

func transport(pool *x509.CertPool) http.RoundTripper {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    15 * time.Second,
		ResponseHeaderTimeout:  60 * time.Second,
		MaxResponseHeaderBytes: 1 << 20,
		IdleConnTimeout:        60 * time.Second,
		MaxIdleConnsPerHost:    2 * connections,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // a digest is of the bytes that are sent
	}
}

// wires chooses the connection by the host that a request goes to, be it the
// registry's own or one that it has named.
type wires struct {
	plain map[string]bool
	own   map[string]http.RoundTripper
	any   http.RoundTripper
}

func (w *wires) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Host // which others may have written
	if req.URL.Scheme == "https" {
		host = strings.TrimSuffix(host, ":443")
	} else if bare, ok := strings.CutSuffix(host, ":80"); ok && !w.plain[host] {
		host = bare
	}
	if req.URL.Scheme != "https" && !w.plain[host] && !atOwnLoopback(req) {
		return nil, fmt.Errorf("plain HTTP is not enabled for %s: %s", req.URL.Host, allowPlain(req.URL.Host))
	}
	if t, ok := w.own[host]; ok {
		return t.RoundTrip(req)
	}
	return w.any.RoundTrip(req)
}

// place is one repository of one registry.
type place struct {
	*remote.Repository
	ref Reference // without a version
	do  *doer
}

// places are where an image can be had, the mirrors first.
func (c *Client) places(ref Reference, cred *Credential) ([]*place, error) {
	var out []*place
	for _, m := range c.hosts[ref.Host].Mirrors {
		at, err := mirrored(m, ref.Repository)
		if err != nil {
			return nil, err
		}
		p, err := c.place(at, nil)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	origin, err := c.place(ref, cred)
	return append(out, origin), err
}

func (c *Client) place(ref Reference, cred *Credential) (*place, error) {
	at := registry.Reference{Registry: ref.Host, Repository: ref.Repository}
	if err := at.Validate(); err != nil {
		return nil, err
	}
	ask := c.credential(ref, at.Host(), cred)
	do := &doer{Client: c.authClient(ref.Host, "", cred, ask)}
	if h := c.hosts[ref.Host]; isLoopback(ref.Host) && !h.PlainHTTP && h.CAFile == "" {
		if !c.logins {
			ask = withheld(ref.Host, ask)
		}
		do.loopback = &loopback{host: at.Host(), client: c.authClient(ref.Host, "http", cred, ask)}
	}
	repo := &remote.Repository{Client: do, Reference: at, PlainHTTP: c.hosts[ref.Host].PlainHTTP,
		MaxMetadataBytes: maxManifest, ReferrerListMaxPages: maxPages,
		SkipReferrersGC: true}
	return &place{Repository: repo, ref: Reference{Host: ref.Host, Repository: ref.Repository}, do: do}, nil
}

// authClient has the tokens of those before it for the same host and scheme.
func (c *Client) authClient(host, scheme string, cred *Credential, ask auth.CredentialFunc) *auth.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := scheme + "\x00" + host
	cache, ok := c.cache[key]
	if cred != nil || !ok {
		cache = newTokens()
	}
	if cred == nil { // those of jobs are not kept
		c.keep(key, host, cache)
	}
	out := &auth.Client{Client: c.http, Cache: cache, Credential: ask}
	if isLoopback(host) {
		out.BlockedRealmPrefixes = withoutLoopback()
	}
	if c.agent != "" {
		out.SetUserAgent(c.agent)
	}
	return out
}

// keep forgets the tokens of the host that was not used for longest, where there are many. The caller holds the lock.
func (c *Client) keep(key, host string, cache *tokens) {
	c.cache[key] = cache
	if _, configured := c.hosts[host]; configured {
		return
	}
	c.named = append(slices.DeleteFunc(c.named, func(k string) bool { return k == key }), key)
	if len(c.named) > maxNamed {
		delete(c.cache, c.named[0])
		c.named = slices.Delete(c.named, 0, 1)
	}
}

// doer keeps what a redirect's URL may hold, such as a signature that opens a
// storage, out of errors.
type doer struct {
	*auth.Client
	loopback *loopback
}

func (d *doer) Do(req *http.Request) (*http.Response, error) {
	client, plain := d.choose(req.Context())
	if plain {
		req = d.loopback.request(req)
	}
	note := &asked{last: isAlone(req.Context())}
	req = req.WithContext(context.WithValue(req.Context(), askedKey{}, note))
	resp, err := client.Do(req)
	ended := err == nil && resp.Request.URL.Host == req.URL.Host && denies(resp) &&
		client.Cache.(*tokens).renew(sent(req.Context()))
	if (ended || note.again(resp, err)) && rewind(req) == nil {
		if resp != nil {
			resp.Body.Close()
		}
		resp, err = client.Do(req)
	}
	if err != nil {
		return nil, plainError(err)
	}
	if resp.Request != nil && resp.Request.URL.RawQuery != "" {
		shown := resp.Request.Clone(context.WithoutCancel(resp.Request.Context()))
		shown.URL.RawQuery = ""
		resp.Request = shown
	}
	return resp, nil
}

// forget has new tokens be fetched.
func (d *doer) forget() {
	d.Cache.(*tokens).forget()
	if d.loopback != nil {
		d.loopback.client.Cache.(*tokens).forget()
	}
}

// renew is that of the tokens, of the Authorization that a request went with.
func (d *doer) renew(ctx context.Context, authorization string) bool {
	_, token, _ := strings.Cut(authorization, " ")
	client, _ := d.choose(ctx)
	return client.Cache.(*tokens).renew(token)
}

// choose is the client for the registry as it is reached.
func (d *doer) choose(ctx context.Context) (client *auth.Client, plain bool) {
	if d.loopback != nil && d.loopback.plain(ctx) {
		return d.loopback.client, true
	}
	return d.Client, false
}

func rewind(req *http.Request) (err error) {
	if req.Body != nil && req.GetBody == nil {
		return errors.New("the request's body was sent")
	}
	if req.GetBody != nil {
		req.Body, err = req.GetBody()
	}
	return err
}
