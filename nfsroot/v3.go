package nfsroot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
)

// Procedures of RFC 1813 and of the portmapper, RFC 1833.
const (
	portmapGetport = 3
	mountMnt       = 1
	nfs3Lookup     = 3
	nfs3Read       = 6

	portmapPort = 111
	maxHandle   = 64
)

// v3Reader reads by version 3. The MOUNT protocol gives the handle of a file's
// directory, whatever file system of the server that is on.
type v3Reader struct {
	c      *rpcConn
	mountd string
	ctx    context.Context
}

func openV3(ctx context.Context, ip net.IP, s Server) (reader, error) {
	port, err := getPort(ctx, ip, progMount, 3)
	if err != nil {
		return nil, err
	}
	c, err := dialRPC(ctx, hostPort(ip, s.Port), progNFS, 3)
	if err != nil {
		return nil, err
	}
	return &v3Reader{c: c, mountd: hostPort(ip, port), ctx: ctx}, nil
}

func getPort(ctx context.Context, ip net.IP, prog, vers uint32) (int, error) {
	c, err := dialRPC(ctx, hostPort(ip, portmapPort), progPortmap, 2)
	if err != nil {
		return 0, fmt.Errorf("rpcbind: %w", err)
	}
	defer c.close()
	const tcp = 6
	w := &xdrWriter{}
	w.uint32(prog, vers, tcp, 0)
	r, err := c.call(portmapGetport, w)
	if err != nil {
		return 0, fmt.Errorf("rpcbind: %w", err)
	}
	port := r.uint32()
	if r.err == nil && (port == 0 || port > 65535) {
		return 0, errors.New("rpcbind: the server has no mountd for TCP")
	}
	return int(port), r.err
}

func mnt(ctx context.Context, addr, dir string) ([]byte, error) {
	c, err := dialRPC(ctx, addr, progMount, 3)
	if err != nil {
		return nil, fmt.Errorf("mountd: %w", err)
	}
	defer c.close()
	w := &xdrWriter{}
	w.text(dir)
	r, err := c.call(mountMnt, w)
	if err != nil {
		return nil, fmt.Errorf("mountd: %w", err)
	}
	if status := r.uint32(); status != 0 {
		return nil, fmt.Errorf("mountd: %s: %w", dir, statusError(status))
	}
	fh := r.bytes(maxHandle)
	return fh, r.err
}

func (r *v3Reader) close() { r.c.close() }

func (r *v3Reader) readFile(name string, limit int) ([]byte, error) {
	dir, err := mnt(r.ctx, r.mountd, path.Dir(name))
	if err != nil {
		return nil, err
	}
	fh, err := r.lookup(dir, path.Base(name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path.Base(name), err)
	}
	var out []byte
	for {
		if err := r.ctx.Err(); err != nil {
			return nil, err
		}
		part, eof, err := r.read(fh, uint64(len(out)))
		if err != nil {
			return nil, err
		}
		if len(out)+len(part) > limit {
			return nil, fmt.Errorf("it is longer than %d bytes", limit)
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

func (r *v3Reader) lookup(dir []byte, name string) ([]byte, error) {
	w := &xdrWriter{}
	w.bytes(dir)
	w.text(name)
	reply, err := r.c.call(nfs3Lookup, w)
	if err != nil {
		return nil, err
	}
	if status := reply.uint32(); status != 0 {
		return nil, statusError(status)
	}
	fh := reply.bytes(maxHandle)
	return fh, reply.err
}

func (r *v3Reader) read(fh []byte, offset uint64) ([]byte, bool, error) {
	w := &xdrWriter{}
	w.bytes(fh)
	w.uint64(offset)
	w.uint32(readChunk)
	reply, err := r.c.call(nfs3Read, w)
	if err != nil {
		return nil, false, err
	}
	if status := reply.uint32(); status != 0 {
		return nil, false, statusError(status)
	}
	if reply.uint32() != 0 { // attributes follow
		const fattr3 = 84
		reply.take(fattr3)
	}
	reply.uint32() // the count, which the data has too
	eof := reply.uint32() != 0
	part := reply.bytes(readChunk)
	return part, eof, reply.err
}
