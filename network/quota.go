package network

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
)

// use is a connection or a flow that is led on: of an owner, whose share it takes, and from a source.
type use struct {
	owner, source string
	last          atomic.Int64 // when there was something, by Unix time in nanoseconds
	end           func()       // is called without locks, from any goroutine, and does not wait
}

func (u *use) touch() { u.last.Store(time.Now().UnixNano()) }

func (u *use) idle() time.Duration { return time.Since(time.Unix(0, u.last.Load())) }

// uses are of one source.
type uses map[*use]struct{}

// quota bounds how many uses there are: in all, and of each owner. Where it is full, the longest idle use of the
// source that has most of them makes way, so that no source keeps others out. The caller locks.
type quota struct {
	most, each int
	total      int
	of         map[string]int             // by owner
	sources    map[string]uses            // in all
	owners     map[string]map[string]uses // of an owner, by source
}

func newQuota(most, each int) quota {
	return quota{most: most, each: max(1, each), of: map[string]int{}, sources: map[string]uses{},
		owners: map[string]map[string]uses{}}
}

// young is a use that makes way for none but those of sources that have fewer: whoever begins more than their
// share in this time has new ones dropped.
const young = time.Second

// add takes a use up where there is room. What made way is over for the quota, and the caller ends it.
func (q *quota) add(u *use) (made *use, ok bool) {
	var full map[string]uses
	switch {
	case q.of[u.owner] >= q.each:
		full = q.owners[u.owner]
	case q.total >= q.most:
		full = q.sources
	}
	if full != nil {
		if made = yields(full, u.source); made == nil {
			return nil, false
		}
		q.remove(made)
	}
	q.total++
	q.of[u.owner]++
	if q.owners[u.owner] == nil {
		q.owners[u.owner] = map[string]uses{}
	}
	put(q.sources, u)
	put(q.owners[u.owner], u)
	return made, true
}

// remove may be called twice.
func (q *quota) remove(u *use) {
	if _, is := q.sources[u.source][u]; !is {
		return
	}
	cut(q.sources, u)
	cut(q.owners[u.owner], u)
	q.total--
	if q.of[u.owner]--; q.of[u.owner] == 0 {
		delete(q.of, u.owner)
		delete(q.owners, u.owner)
	}
}

func put(of map[string]uses, u *use) {
	if of[u.source] == nil {
		of[u.source] = uses{}
	}
	of[u.source][u] = struct{}{}
}

func cut(of map[string]uses, u *use) {
	if delete(of[u.source], u); len(of[u.source]) == 0 {
		delete(of, u.source)
	}
}

// yields is what makes way for a use of a source: of the source that has most, or of its own where that would
// have no more than the others.
func yields(full map[string]uses, source string) *use {
	var old *use
	most := 0
	for _, some := range full {
		if len(some) < most {
			continue
		}
		if u := some.longest(); len(some) > most || u.last.Load() < old.last.Load() {
			old, most = u, len(some)
		}
	}
	fewer := most > len(full[source])+1
	if own := full[source].longest(); !fewer && own != nil {
		old = own
	}
	if old != nil && (fewer || old.idle() >= young) {
		return old
	}
	return nil
}

// longest is the use in which nothing has happened for longest.
func (all uses) longest() (old *use) {
	for u := range all {
		if old == nil || u.last.Load() < old.last.Load() {
			old = u
		}
	}
	return old
}

// sourceOf names who on this host has sent something: a user, and as root is also that of tasks on the host's stack,
// root at an address. A user who ends it at once is known by the address alone.
func sourceOf(protocol string, client, server netip.AddrPort) string {
	at := client.Addr().String()
	if client.Addr().IsLoopback() { // a client has its choice of these
		at = "loopback"
	}
	if server.Addr().IsUnspecified() { // as nobody has said which: what is for the host itself mostly has one address
		server = netip.AddrPortFrom(client.Addr(), server.Port())
	}
	uid, err := userOf(protocol, client, server)
	switch {
	case err != nil:
		return "unknown at " + at
	case uid != 0:
		return fmt.Sprint("user ", uid)
	}
	return "root at " + at
}
