package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxMessage is that of a question or a reply, in bytes.
const maxMessage = 8 << 10

// channel is between the two processes. Each question has one reply.
type channel struct {
	mu   sync.Mutex
	conn *net.UnixConn
}

// newChannel makes both ends.
func newChannel() (own *channel, other *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	unix.CloseOnExec(pair[0])
	unix.CloseOnExec(pair[1])
	other = os.NewFile(uintptr(pair[1]), "channel")
	if own, err = channelOf(os.NewFile(uintptr(pair[0]), "channel")); err != nil {
		return nil, nil, errors.Join(err, other.Close())
	}
	return own, other, nil
}

// channelOf takes over an end.
func channelOf(f *os.File) (*channel, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(errors.New("not a socket of this host"), c.Close())
	}
	return &channel{conn: u}, nil
}

// ask is for the process without rights. The file is the caller's, and nil where there is none.
func (c *channel) ask(q question) (*os.File, reply, error) {
	var r reply
	b, err := json.Marshal(q)
	if err != nil {
		return nil, r, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.conn.Write(b); err != nil {
		return nil, r, err
	}
	return c.read()
}

// read reads a reply, and the descriptor that goes with it.
func (c *channel) read() (*os.File, reply, error) {
	var r reply
	buf, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	n, nr, _, _, err := c.conn.ReadMsgUnix(buf, rights)
	if err == nil && n == 0 {
		err = net.ErrClosed
	}
	if err != nil {
		return nil, r, err
	}
	f, err := received(rights[:nr])
	if err == nil {
		err = json.Unmarshal(buf[:n], &r)
	}
	if err == nil && r.Found != (f != nil) {
		err = errors.New("a reply without its descriptor")
	}
	if err != nil && f != nil {
		err = errors.Join(err, f.Close())
		f = nil
	}
	return f, r, err
}

// received is the one descriptor of a control message; nil where there is none.
func received(rights []byte) (*os.File, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("%d control messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		unix.CloseOnExec(fd)
	}
	return os.NewFile(uintptr(fds[0]), "passed"), nil
}

// give is the first message to the process without rights: the socket that it listens on.
func (c *channel) give(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	b, err := json.Marshal(reply{Found: true})
	if err != nil {
		return err
	}
	// By its number: a file of it would be one that blocks, here and in all processes.
	cerr := raw.Control(func(fd uintptr) { _, _, err = c.conn.WriteMsgUnix(b, unix.UnixRights(int(fd)), nil) })
	return errors.Join(cerr, err)
}

// take is the other end of give.
func (c *channel) take() (net.Listener, error) {
	f, _, err := c.read()
	if err != nil {
		return nil, fmt.Errorf("no socket to listen on: %w", err)
	}
	l, err := net.FileListener(f)
	return l, errors.Join(err, f.Close())
}

// answer answers questions until the other end is gone.
func (c *channel) answer(open func(question) (*os.File, reply)) error {
	buf := make([]byte, maxMessage)
	for {
		n, err := c.conn.Read(buf)
		if n == 0 && (err == nil || errors.Is(err, io.EOF)) {
			return nil
		}
		if err != nil {
			return err
		}
		var q question
		var f *os.File
		r := reply{Error: "not a question"}
		if json.Unmarshal(buf[:n], &q) == nil {
			f, r = open(q)
		}
		if err := c.send(r, f); err != nil {
			return err
		}
	}
}

func (c *channel) send(r reply, f *os.File) (err error) {
	if f != nil {
		defer func() { err = errors.Join(err, f.Close()) }()
	}
	if len(r.Error) > maxMessage/8 { // each byte may be six in JSON
		r.Error = r.Error[:maxMessage/8]
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var rights []byte
	if f != nil {
		rights = unix.UnixRights(int(f.Fd()))
	}
	_, _, err = c.conn.WriteMsgUnix(b, rights, nil)
	return err
}

// end has the other side read that nothing more comes.
func (c *channel) end() error { return c.conn.Close() }
