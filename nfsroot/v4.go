package nfsroot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
)

// Operations of an NFSv4 COMPOUND, RFC 7530.
const (
	opGetattr   = 9
	opLookup    = 15
	opPutrootfh = 24
	opRead      = 25
)

// v4Reader reads by version 4.0 of the protocol, whose READ takes a state that
// stands for none: no client has to be registered, nothing has to be closed. Of a
// server that refuses this version it reads by 4.1, in a session.
type v4Reader struct {
	c       *rpcConn
	ctx     context.Context
	options Options
	session *session // nil in version 4.0
}

func openV4(ctx context.Context, ip net.IP, s Server, o Options) (reader, error) {
	c, err := dialRPC(ctx, hostPort(ip, s.Port), progNFS, 4)
	if err != nil {
		return nil, err
	}
	return &v4Reader{c: c, ctx: ctx, options: o}, nil
}

func (r *v4Reader) close() {
	if r.session != nil {
		r.session.end(r.c)
	}
	r.c.close()
}

func (r *v4Reader) readFile(name string, limit int) ([]byte, error) {
	var out []byte
	for {
		part, size, eof, err := r.read(name, uint64(len(out)))
		if err != nil {
			return nil, err
		}
		if size > uint64(limit) || len(out)+len(part) > limit {
			return nil, fmt.Errorf("%d bytes are over the limit of %d", size, limit)
		}
		out = append(out, part...)
		if eof {
			return out, nil
		}
		if len(part) == 0 {
			return nil, errors.New("the server sends nothing of a file that has not ended")
		}
	}
}

// errMinor is that a server refuses a minor version.
var errMinor = errors.New("the server refuses the minor version")

// read asks for a part of a file, and for its size, in one call.
func (r *v4Reader) read(name string, offset uint64) (part []byte, size uint64, eof bool, err error) {
	part, size, eof, err = r.readIn(name, offset)
	if r.session != nil || !errors.Is(err, errMinor) || r.options.MinorVersion == 0 {
		return part, size, eof, err
	}
	if r.session, err = newSession(r.c); err != nil {
		return nil, 0, false, err
	}
	return r.readIn(name, offset)
}

func (r *v4Reader) readIn(name string, offset uint64) (part []byte, size uint64, eof bool, err error) {
	if err := r.ctx.Err(); err != nil {
		return nil, 0, false, err
	}
	elems := names(name)
	ops := &xdrWriter{}
	ops.uint32(opPutrootfh)
	for _, e := range elems {
		ops.uint32(opLookup)
		ops.text(e)
	}
	const attrSize = 4
	ops.uint32(opGetattr, 1, 1<<attrSize)
	ops.uint32(opRead, 0, 0, 0, 0) // the state of all zeros
	ops.uint64(offset)
	ops.uint32(readChunk)
	reply, status, done, err := r.session.compound(r.c, 1+len(elems)+1+1, ops)
	if err != nil {
		return nil, 0, false, err
	}
	if status != 0 {
		return nil, 0, false, v4Error(status, done, elems)
	}
	for range 1 + len(elems) { // each its number and its status
		reply.take(8)
	}
	reply.take(8)
	reply.bytes(64) // which attributes
	reply.uint32()  // their length
	size = reply.uint64()
	reply.take(8)
	eof = reply.uint32() != 0
	part = reply.bytes(readChunk)
	return part, size, eof, reply.err
}

// v4Error tells what a status means, and of which operation it is.
func v4Error(status uint32, done int, elems []string) error {
	at := "the server's root"
	if done >= 2 && done-2 < len(elems) {
		at = elems[done-2]
	}
	err := statusError(status)
	const (
		minorMismatch = 10021
		wrongSec      = 10016
		noFileHandle  = 10020
	)
	switch status {
	case minorMismatch:
		err = fmt.Errorf("%w: set minor_version to one that it has, or none", errMinor)
	case wrongSec:
		err = fmt.Errorf("it asks for another security than sys: %w", syscall.EACCES)
	case noFileHandle:
		err = fmt.Errorf("it has no NFSv4 root (a V4: line in its exports): %w", fs.ErrNotExist)
	}
	return fmt.Errorf("%s: %w", at, err)
}

// statusError takes a status of NFS for the errno of the same number where
// there is one: RFC 1813 took them from Unix.
func statusError(status uint32) error {
	switch status {
	case 1:
		return syscall.EPERM
	case 2:
		return syscall.ENOENT
	case 5:
		return syscall.EIO
	case 13:
		return syscall.EACCES
	case 20:
		return syscall.ENOTDIR
	case 21:
		return syscall.EISDIR
	case 70:
		return syscall.ESTALE
	}
	return fmt.Errorf("NFS status %d", status)
}
