package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/user"
	"strconv"

	"github.com/freejail/freejail/daemon/client"
)

// peer is the process at the other end of a connection, as the kernel tells.
type peer struct {
	uid, pid int
	login    string // as whom its session was begun, if that is known
	err      error  // why it may not talk to the daemon
}

type peerKey struct{}

// withPeer keeps who it is that door let in.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if k, ok := c.(*knownConn); ok {
		return context.WithValue(ctx, peerKey{}, k.peer)
	}
	return ctx
}

func peerAt(c net.Conn) peer {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return peer{uid: -1, err: errors.New("not a Unix socket")}
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return peer{uid: -1, err: err}
	}
	p := peer{uid: -1}
	if err := raw.Control(func(fd uintptr) { p = examine(int(fd)) }); err != nil {
		p.err = err
	}
	return p
}

// examine admits root of the host alone: root of a jail or container is not.
func examine(fd int) peer {
	p, err := socketPeer(fd)
	switch {
	case err != nil:
		p.err = fmt.Errorf("the client is unknown: %w", err)
	case p.uid != 0 && p.uid != os.Geteuid():
		p.err = fmt.Errorf("only root may talk to the freejail daemon, not uid %d", p.uid)
	default:
		p.err = atHome(fd, p.pid)
	}
	return p
}

// peerOf is who sent a request, which hostOnly has let in.
func peerOf(r *http.Request) peer {
	p, ok := r.Context().Value(peerKey{}).(peer)
	if !ok {
		return peer{uid: -1, err: errors.New("the client is unknown")}
	}
	return p
}

// String is who it was, for the record.
func (p peer) String() string {
	out := fmt.Sprintf("uid %d", p.uid)
	name := ""
	if u, err := user.LookupId(strconv.Itoa(p.uid)); err == nil {
		name = u.Username
		out = fmt.Sprintf("%s (uid %d)", name, p.uid)
	}
	if p.login != "" && p.login != name {
		out += ", logged in as " + p.login
	}
	return out
}

// hostOnly admits root of this host, and the daemon's own user, whatever the
// socket's mode and wherever it may have been mounted.
func hostOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := peerOf(r); p.err != nil {
			w.Header().Set("Connection", "close") // nothing else can be had on it
			writeError(w, client.Refused("%v", p.err))
			return
		}
		h.ServeHTTP(w, r)
	})
}
