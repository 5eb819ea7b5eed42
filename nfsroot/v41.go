package nfsroot

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"
)

// Operations of NFSv4.1, RFC 8881, section 18.
const (
	opExchangeID      = 42
	opCreateSession   = 43
	opDestroySession  = 44
	opSequence        = 53
	opDestroyClientID = 57
)

// session is one of NFSv4.1 with a single slot, for one connection. A nil one stands for version 4.0, which has none.
type session struct {
	client uint64
	id     []byte // 16 bytes
	seq    uint32 // of the slot's last request
}

const sessionID = 16 // bytes

// compound makes one call of operations. done counts those of them that the server got to; reply begins with the
// results of the first.
func (s *session) compound(c *rpcConn, n int, ops *xdrWriter) (reply *xdrReader, status uint32, done int, err error) {
	minor := uint32(0)
	all := &xdrWriter{}
	if s != nil {
		minor, n = 1, n+1
		s.seq++
		all.uint32(opSequence)
		all.b = append(all.b, s.id...)
		all.uint32(s.seq, 0, 0, 0) // slot 0, which is the highest; the reply is not kept
	}
	all.b = append(all.b, ops.b...)
	if reply, status, done, err = call4(c, minor, n, all); err != nil || s == nil {
		return reply, status, done, err
	}
	reply.uint32() // SEQUENCE
	if own := reply.uint32(); own != 0 {
		return nil, 0, 0, fmt.Errorf("its session: %w", statusError(own))
	}
	reply.take(sessionID + 5*4)
	return reply, status, done - 1, reply.err
}

// call4 is a COMPOUND with n operations.
func call4(c *rpcConn, minor uint32, n int, ops *xdrWriter) (reply *xdrReader, status uint32, done int, err error) {
	w := &xdrWriter{}
	w.text("") // tag
	w.uint32(minor, uint32(n))
	w.b = append(w.b, ops.b...)
	const compound = 1
	if reply, err = c.call(compound, w); err != nil {
		return nil, 0, 0, err
	}
	status = reply.uint32()
	reply.bytes(1024)
	done = int(reply.uint32())
	return reply, status, done, reply.err
}

// newSession registers a client of its own with the server, which end removes. Where that does not come to it, the
// server lets it lapse by itself.
func newSession(c *rpcConn) (*session, error) {
	owner := make([]byte, 16)
	if _, err := rand.Read(owner); err != nil {
		return nil, err
	}
	w := &xdrWriter{}
	const notPNFS, noProtection = 0x00010000, 0
	w.uint32(opExchangeID)
	w.uint64(uint64(time.Now().UnixNano())) // the verifier
	w.bytes(append([]byte("freejail "), owner...))
	w.uint32(notPNFS, noProtection, 0)
	reply, status, _, err := call4(c, 1, 1, w)
	if err = sessionError("EXCHANGE_ID", reply, status, err); err != nil {
		return nil, err
	}
	s := &session{client: reply.uint64()}
	first := reply.uint32()
	// Header padding, the longest request, reply and kept reply, operations, slots, and no RDMA.
	fore := []uint32{0, 8 << 10, maxReply, 1 << 10, 64, 1, 0}
	back := []uint32{0, 4 << 10, 4 << 10, 0, 2, 1, 0}
	const flags, callbackProgram, authNone = 0, 0x40000000, 0
	w = &xdrWriter{}
	w.uint32(opCreateSession)
	w.uint64(s.client)
	w.uint32(first, flags)
	w.uint32(fore...)
	w.uint32(back...)
	w.uint32(callbackProgram, 1, authNone)
	reply, status, _, err = call4(c, 1, 1, w)
	if err = sessionError("CREATE_SESSION", reply, status, err); err != nil {
		return nil, err
	}
	if s.id = reply.take(sessionID); reply.err != nil {
		return nil, reply.err
	}
	return s, nil
}

// sessionError goes past the head of the only result.
func sessionError(op string, reply *xdrReader, status uint32, err error) error {
	if err != nil {
		return err
	}
	const minorMismatch = 10021
	if status == minorMismatch {
		return errors.New("it has neither NFSv4.0 nor 4.1, by which the images' descriptions are read")
	}
	if status != 0 {
		return fmt.Errorf("%s: %w", op, statusError(status))
	}
	reply.take(8)
	return reply.err
}

// end removes what newSession has made. The server would do it later: an error changes nothing.
func (s *session) end(c *rpcConn) {
	w := &xdrWriter{}
	w.uint32(opDestroySession)
	w.b = append(w.b, s.id...)
	if _, status, _, err := call4(c, 1, 1, w); err != nil || status != 0 {
		return
	}
	w = &xdrWriter{}
	w.uint32(opDestroyClientID)
	w.uint64(s.client)
	_, _, _, _ = call4(c, 1, 1, w)
}
