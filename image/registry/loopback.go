package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// isLoopback tells whether a host, with or without a port, is this one by its name
// alone. What others resolve to is not looked up.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// loopback finds out, once, whether a registry of this host speaks plain HTTP. It is nil
// for other registries, and for those that the configuration says it of.
type loopback struct {
	host   string
	client *auth.Client // for plain HTTP, with tokens of its own; see Config.LoopbackLogins
	mu     sync.Mutex
	done   bool
	http   bool
}

func (l *loopback) plain(ctx context.Context) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done {
		l.http = !mayHaveTLS(ctx, l.host)
		l.done = ctx.Err() == nil
	}
	return l.http
}

// mayHaveTLS makes a handshake and nothing else; whose certificate it is, is checked
// when something is sent. What does not answer is not taken for one without TLS.
func mayHaveTLS(ctx context.Context, host string) bool {
	if _, _, err := net.SplitHostPort(host); err != nil {
		host += ":443"
	}
	ctx, cancel := context.WithTimeout(ctx, handshake)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := d.DialContext(ctx, "tcp", host)
	if err == nil {
		_ = conn.Close() // nothing was sent
		return true
	}
	var other tls.RecordHeaderError
	return !errors.As(err, &other) && !errors.Is(err, io.EOF) && !closedByPeer(err)
}

// handshake is how long one may take. It is a variable for tests.
var handshake = 5 * time.Second

// closedByPeer is not that nobody listens.
func closedByPeer(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op != "dial" && errors.Is(err, syscall.ECONNRESET)
}

// withheld has an error tell that credentials are not sent. Where there are none a
// registry may give a token without.
func withheld(host string, f auth.CredentialFunc) auth.CredentialFunc {
	return func(ctx context.Context, asked string) (auth.Credential, error) {
		cred, err := f(ctx, asked)
		if err != nil || cred == auth.EmptyCredential {
			return cred, err
		}
		return auth.EmptyCredential, fmt.Errorf("%w to %s: %s", errWithheld, host, allowPlain(host))
	}
}

var errWithheld = errors.New("credentials are not sent over plain HTTP")

func allowPlain(host string) string {
	return fmt.Sprintf("set registry %q { plain_http = true }, or --plain-http %[1]s", host)
}

type loopbackKey struct{}

// request is one to the registry. What this names, such as its token server, may be
// asked over plain HTTP at its own address and port alone.
func (l *loopback) request(req *http.Request) *http.Request {
	req = req.Clone(context.WithValue(req.Context(), loopbackKey{}, endpoint(l.host)))
	if req.URL.Host == l.host {
		req.URL.Scheme = "http"
	}
	return req
}

func atOwnLoopback(req *http.Request) bool {
	return req.Context().Value(loopbackKey{}) == endpoint(req.URL.Host)
}

// endpoint is where plain HTTP to a host goes.
func endpoint(host string) string {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = strings.Trim(host, "[]"), "80"
	}
	if name == "localhost" {
		name = "127.0.0.1"
	}
	return net.JoinHostPort(name, port)
}

// withoutLoopback lets a registry of this host name a token server of this host.
func withoutLoopback() []netip.Prefix {
	return slices.DeleteFunc(auth.DefaultBlockedRealmPrefixes(),
		func(p netip.Prefix) bool { return p.Addr().IsLoopback() })
}
