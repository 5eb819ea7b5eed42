package nfsroot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
	"time"
)

// Programs of ONC RPC, RFC 5531.
const (
	progPortmap = 100000
	progNFS     = 100003
	progMount   = 100005
)

// maxReply bounds a server's reply: a chunk of a file and a little more.
const maxReply = readChunk + 1<<16

// rpcConn is a TCP connection to one program. It speaks with one call at a
// time, and ends with its deadline: no server can keep us longer.
type rpcConn struct {
	c          net.Conn
	prog, vers uint32
	xid        uint32
}

// dialRPC connects from a privileged port, which servers ask for.
func dialRPC(ctx context.Context, addr string, prog, vers uint32) (*rpcConn, error) {
	c, err := dialPrivileged(ctx, addr)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return &rpcConn{c: c, prog: prog, vers: vers, xid: rand.Uint32()}, nil
}

// dialPrivileged tries the ports that bindresvport(3) does, from a random one
// on; where they are not ours to use it takes any.
func dialPrivileged(ctx context.Context, addr string) (net.Conn, error) {
	const first, last = 600, 1023
	start := rand.IntN(last - first + 1)
	for i := range last - first + 1 {
		d := net.Dialer{LocalAddr: &net.TCPAddr{Port: first + (start+i)%(last-first+1)}}
		c, err := d.DialContext(ctx, "tcp", addr)
		switch {
		case err == nil:
			return c, nil
		case errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EADDRNOTAVAIL):
			continue
		case !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM):
			return nil, err
		}
		break
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
}

func (r *rpcConn) close() { r.c.Close() }

// call returns the results of a procedure that took the arguments.
func (r *rpcConn) call(proc uint32, args *xdrWriter) (*xdrReader, error) {
	r.xid++
	w := &xdrWriter{}
	const callMessage, rpcVersion, authSys, authNone = 0, 2, 1, 0
	w.uint32(r.xid, callMessage, rpcVersion, r.prog, r.vers, proc)
	cred := &xdrWriter{} // root, in group 0
	cred.uint32(uint32(time.Now().Unix()))
	cred.text("")
	cred.uint32(0, 0, 0)
	w.uint32(authSys)
	w.bytes(cred.b)
	w.uint32(authNone, 0)
	if args != nil {
		w.b = append(w.b, args.b...)
	}
	const lastFragment = 1 << 31
	head := binary.BigEndian.AppendUint32(nil, lastFragment|uint32(len(w.b)))
	if _, err := r.c.Write(append(head, w.b...)); err != nil {
		return nil, err
	}
	reply, err := r.readRecord()
	if err != nil {
		return nil, err
	}
	return checkReply(reply, r.xid)
}

func (r *rpcConn) readRecord() ([]byte, error) {
	var out []byte
	for {
		var head [4]byte
		if _, err := io.ReadFull(r.c, head[:]); err != nil {
			return nil, err
		}
		n := binary.BigEndian.Uint32(head[:])
		size := int(n &^ (1 << 31))
		if size > maxReply-len(out) {
			return nil, fmt.Errorf("the server's reply is longer than %d bytes", maxReply)
		}
		part := make([]byte, size)
		if _, err := io.ReadFull(r.c, part); err != nil {
			return nil, err
		}
		if out = append(out, part...); n&(1<<31) != 0 {
			return out, nil
		}
	}
}

// acceptErrors are the answers of accept_stat in RFC 5531.
var acceptErrors = map[uint32]string{1: "the program is not there", 2: "the program's version is not there",
	3: "the procedure is not there", 4: "it could not read the arguments", 5: "it failed"}

func checkReply(reply []byte, xid uint32) (*xdrReader, error) {
	r := &xdrReader{b: reply}
	const replyMessage, accepted = 1, 0
	if r.uint32() != xid || r.uint32() != replyMessage {
		return nil, errors.New("the server's reply does not match the call")
	}
	if r.uint32() != accepted {
		return nil, fmt.Errorf("the server rejects the call: %w", syscall.EACCES)
	}
	r.uint32()
	r.bytes(400)
	if status := r.uint32(); status != 0 {
		return nil, fmt.Errorf("the server refused the call: %s", acceptErrors[status])
	}
	return r, r.err
}

// xdrWriter and xdrReader are RFC 4506's encoding.
type xdrWriter struct{ b []byte }

func (w *xdrWriter) uint32(list ...uint32) {
	for _, n := range list {
		w.b = binary.BigEndian.AppendUint32(w.b, n)
	}
}

func (w *xdrWriter) uint64(n uint64) { w.b = binary.BigEndian.AppendUint64(w.b, n) }

func (w *xdrWriter) bytes(p []byte) {
	w.uint32(uint32(len(p)))
	w.b = append(w.b, p...)
	w.b = append(w.b, make([]byte, -len(p)&3)...)
}

func (w *xdrWriter) text(s string) { w.bytes([]byte(s)) }

// xdrReader returns zeros after its first error.
type xdrReader struct {
	b   []byte
	err error
}

var errShortReply = errors.New("the server's reply is truncated")

func (r *xdrReader) take(n int) []byte {
	if r.err == nil && n > len(r.b) {
		r.err = errShortReply
	}
	if r.err != nil {
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *xdrReader) uint32() uint32 {
	if p := r.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (r *xdrReader) uint64() uint64 {
	if p := r.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

// bytes reads a counted sequence of at most limit bytes.
func (r *xdrReader) bytes(limit int) []byte {
	n := r.uint32()
	if r.err == nil && n > uint32(limit) {
		r.err = fmt.Errorf("a field of the server's reply has %d bytes, more than %d", n, limit)
	}
	p := r.take(int(n))
	r.take(-int(n) & 3)
	return p
}

// resolve returns the addresses of a server, each to be tried.
func (s Server) resolve(ctx context.Context) ([]net.IP, error) {
	if ip := net.ParseIP(s.Host); ip != nil {
		return []net.IP{ip}, nil
	}
	addrs, err := net.DefaultResolver.LookupIPAddr(ctx, s.Host)
	if err != nil {
		return nil, err
	}
	var out []net.IP
	for _, a := range addrs {
		out = append(out, a.IP)
	}
	return out, nil
}

func hostPort(ip net.IP, port int) string { return net.JoinHostPort(ip.String(), strconv.Itoa(port)) }
