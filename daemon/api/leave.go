package api

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// leaveTime is how long those who have asked are waited for before another program takes this one's place: a client may
// send nothing, and read nothing.
const leaveTime = time.Second

// debts are the connections whose clients are owed an answer. The zero value is ready.
type debts struct {
	mu   sync.Mutex
	open map[net.Conn]time.Time // since when a request is awaited; zero where one has come
	paid chan struct{}          // closed when one is paid, where somebody waits for that
}

// changed is the ConnState of an [http.Server].
func (d *debts) changed(c net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		if k, ok := c.(*knownConn); !ok || k.peer.err == nil { // nobody waits for a stranger
			d.owe(c, time.Now())
		}
	case http.StateActive:
		d.owe(c, time.Time{})
	case http.StateIdle, http.StateClosed, http.StateHijacked: // an answer is flushed before
		d.pay(c)
	}
}

func (d *debts) owe(c net.Conn, since time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open == nil {
		d.open = map[net.Conn]time.Time{}
	}
	d.open[c] = since
}

func (d *debts) pay(c net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, c)
	if d.paid != nil {
		close(d.paid)
		d.paid = nil
	}
}

// settle returns when nobody is owed an answer, or ctx ends. Who has connected and sent nothing since before is not
// waited for.
func (d *debts) settle(ctx context.Context, before time.Time) error {
	for {
		paid := d.left(before)
		if paid == nil {
			return nil
		}
		select {
		case <-paid:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// left is closed when one of those who are owed an answer has it; nil where there are none.
func (d *debts) left(before time.Time) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, since := range d.open {
		if since.IsZero() || since.After(before) {
			if d.paid == nil {
				d.paid = make(chan struct{})
			}
			return d.paid
		}
	}
	return nil
}

// debt is that of a request's connection.
type debt struct {
	all  *debts
	conn net.Conn
}

type debtKey struct{}

func (d *debts) with(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, debtKey{}, debt{d, c})
}

// deferred has a request's answer not be waited for until back is called: what it waits for itself may be far off, and
// its client asks again.
func deferred(r *http.Request) (back func()) {
	d, ok := r.Context().Value(debtKey{}).(debt)
	if !ok {
		return func() {}
	}
	d.all.pay(d.conn)
	return func() { d.all.owe(d.conn, time.Time{}) }
}

// far is f, whose answer is deferred until it is known.
func far[Out any](f func(*http.Request) (Out, error)) func(*http.Request) (Out, error) {
	return func(r *http.Request) (Out, error) {
		defer deferred(r)()
		return f(r)
	}
}
