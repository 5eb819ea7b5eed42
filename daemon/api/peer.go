package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/user"
	"slices"
	"strconv"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/task"
)

// peer is the process at the other end of a connection, as the kernel tells.
type peer struct {
	uid, pid int
	groups   []int
	login    string // as whom its session was begun, if that is known
	operator bool   // it is not root, but of the group that may use the socket
	err      error  // why it may not talk to the daemon
}

// untilKnown keeps what find has told, but no error: the next call finds again.
func untilKnown[T any](find func() (T, error)) func() (T, error) {
	var mu sync.Mutex
	var known *T
	return func() (T, error) {
		mu.Lock()
		defer mu.Unlock()
		if known != nil {
			return *known, nil
		}
		t, err := find()
		if err == nil {
			known = &t
		}
		return t, err
	}
}

type peerKey struct{}

// withPeer keeps who it is that door let in.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	if k, ok := c.(*knownConn); ok {
		return context.WithValue(ctx, peerKey{}, k.peer)
	}
	return ctx
}

func peerAt(c net.Conn, group *int) peer {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return peer{uid: -1, err: errors.New("not a Unix socket")}
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return peer{uid: -1, err: err}
	}
	p := peer{uid: -1}
	if err := raw.Control(func(fd uintptr) { p = examine(int(fd), group) }); err != nil {
		p.err = err
	}
	return p
}

// examine admits root of the host, and members of a group there: those of a jail or
// container are not.
func examine(fd int, group *int) peer {
	p, atHome, err := socketPeer(fd)
	root := p.uid == 0 || p.uid == os.Geteuid()
	p.operator = !root && group != nil && slices.Contains(p.groups, *group)
	switch {
	case err != nil:
		p.err = fmt.Errorf("the client is unknown: %w", err)
	case !root && !p.operator && group != nil:
		p.err = fmt.Errorf("only root and members of group %d may talk to the freejail daemon, not uid %d", *group,
			p.uid)
	case !root && !p.operator:
		p.err = fmt.Errorf("only root may talk to the freejail daemon, not uid %d", p.uid)
	default:
		p.err = atHome()
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

// whom is who asks to trace a task.
func (p peer) whom() task.Operator {
	out := task.Operator{User: strconv.Itoa(p.uid), UID: p.uid, Text: p.String(), Root: !p.operator}
	if u, err := user.LookupId(out.User); err == nil {
		out.User = u.Username
	}
	if out.Root {
		out.User, out.UID = "root", 0 // or the daemon's own user, which is no less
	}
	return out
}

// rootOnly is for what members of the socket's group may not do.
func rootOnly(what string, h http.HandlerFunc) http.HandlerFunc {
	return try(func(w http.ResponseWriter, r *http.Request) error {
		if p := peerOf(r); p.operator {
			return client.Refused("only root may %s, not %s", what, p)
		}
		h(w, r)
		return nil
	})
}

// ofOperator refuses what in a task's specification is Nomad's, and goes by the trust in
// it: files and directories of the host about which no policy decides, and labels, by which
// it does.
func ofOperator(p peer, s client.TaskSpec) error {
	if !p.operator || s.Owner == "cli" && len(s.Dirs)+len(s.Confined)+len(s.Labels) == 0 &&
		s.Stdout+s.Stderr+s.Limits.CPUSetOf == "" {
		return nil
	}
	return client.Refused("only root may start tasks of another owner than cli, or with labels, dirs, confined, "+
		"stdout, stderr or cpuset_of, not %s", p)
}

// hostOnly admits root of this host, and the daemon's own user, whatever the
// socket's mode and wherever it may have been mounted. What members of its group change is
// logged.
func hostOnly(h http.Handler, log hclog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := peerOf(r); p.err != nil {
			w.Header().Set("Connection", "close") // nothing else can be had on it
			writeError(w, client.Refused("%v", p.err))
			return
		}
		if p := peerOf(r); p.operator && r.Method != http.MethodGet {
			log.Info("a request of an operator", "by", p.String(), "method", r.Method, "path", r.URL.Path)
		}
		h.ServeHTTP(w, r)
	})
}
