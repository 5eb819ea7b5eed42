package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
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

// loopback finds out, once, whether a registry of this host speaks HTTPS. It is nil
// for other registries, and for those that the configuration says it of.
type loopback struct {
	host string
	mu   sync.Mutex
	done bool
	http bool
}

func (l *loopback) plain(ctx context.Context) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done {
		l.http = !speaksTLS(ctx, l.host)
		l.done = ctx.Err() == nil
	}
	return l.http
}

// speaksTLS makes a handshake and nothing else; whose certificate it is, is checked
// when something is sent.
func speaksTLS(ctx context.Context, host string) bool {
	if _, _, err := net.SplitHostPort(host); err != nil {
		host += ":443"
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := d.DialContext(ctx, "tcp", host)
	if err == nil {
		_ = conn.Close() // nothing was sent
		return true
	}
	var alert *net.OpError
	return errors.As(err, &alert) && alert.Op == "remote error"
}

type loopbackKey struct{}

// ownHost marks the requests to a registry of this host that speaks plain HTTP: what
// it names of this host, such as its token server, may do so too.
func ownHost(req *http.Request) *http.Request {
	if req.URL.Scheme != "http" || !isLoopback(req.URL.Host) {
		return req
	}
	return req.WithContext(context.WithValue(req.Context(), loopbackKey{}, true))
}

func fromOwnHost(req *http.Request) bool { return req.Context().Value(loopbackKey{}) != nil }

// withoutLoopback lets a registry of this host name a token server of this host.
func withoutLoopback() []netip.Prefix {
	return slices.DeleteFunc(auth.DefaultBlockedRealmPrefixes(),
		func(p netip.Prefix) bool { return p.Addr().IsLoopback() })
}
