// Package crowd bounds the connections of a server that anybody can reach.
package crowd

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

// Crowd bounds the connections of an [http.Server]: where there are too many, the one goes that has been without an
// answer for longest.
type Crowd struct {
	most int

	mu  sync.Mutex
	all map[net.Conn]*guest
}

// New is for so many connections.
func New(most int) *Crowd { return &Crowd{most: most, all: map[net.Conn]*guest{}} }

// Len is how many there are.
func (c *Crowd) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all)
}

type guest struct {
	since    time.Time // it came, or had its last answer
	answered bool      // just now
}

// Changed is the ConnState of an [http.Server].
func (c *Crowd) Changed(conn net.Conn, s http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch s {
	case http.StateNew:
		c.all[conn] = &guest{since: time.Now()}
		if len(c.all) > c.most {
			c.send()
		}
	case http.StateClosed, http.StateHijacked:
		delete(c.all, conn)
	}
}

// send ends the connection that is without an answer for longest. It is called with the lock.
func (c *Crowd) send() {
	var who net.Conn
	for conn, g := range c.all {
		if !g.answered && (who == nil || g.since.Before(c.all[who].since)) {
			who = conn
		}
	}
	delete(c.all, who)
	if t, ok := who.(*tls.Conn); ok {
		who = t.NetConn() // which waits for nobody
	}
	_ = who.Close() // its server has the error
}

type connKey struct{}

// WithConn is its ConnContext.
func WithConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// Answer has a connection stay while it is answered.
func (c *Crowd) Answer(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _ := r.Context().Value(connKey{}).(net.Conn)
		c.note(conn, true)
		defer c.note(conn, false)
		h.ServeHTTP(w, r)
	})
}

func (c *Crowd) note(conn net.Conn, answered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g := c.all[conn]; g != nil {
		g.since, g.answered = time.Now(), answered
	}
}
