package client

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Why a copy was refused is told, whatever of the archive could not be sent any more.
func TestCopyRefusedEarly(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	told, closed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(closed)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.Copy(io.Discard, req.Body) // its end is known
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		w := NewFrameWriter(conn)
		_ = w.Write(Stderr, []byte("x"))
		<-told
		_ = w.Write(FailFrame, []byte(`{"code":"invalid","message":"no such file"}`))
	}()
	err = New(socket).Copy(t.Context(), "one", CopySpec{In: true}, CopyIO{From: after{closed}, Problem: func(string) {
		close(told)
		<-closed
		time.Sleep(100 * time.Millisecond) // the archive's end is met before the answer is read
	}})
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a refused copy: %v", err)
	}
}

// after is an archive without end that begins when the channel is closed.
type after struct{ begin <-chan struct{} }

func (a after) Read(p []byte) (int, error) {
	<-a.begin
	return len(p), nil
}
