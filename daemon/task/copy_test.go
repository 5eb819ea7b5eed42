package task

import (
	"archive/tar"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/pace"
)

// A path is refused for its length before anything is told of it.
func TestCopyPathsAreBounded(t *testing.T) {
	long := strings.Repeat("x", maxCopyPath+1)
	for _, spec := range []client.CopySpec{{Path: long}, {Path: "/", Name: long, In: true}} {
		_, err := (&Manager{}).rootForCopy(&task{}, spec, Copier{Root: true})
		if client.AsError(err).Code != client.CodeInvalid {
			t.Errorf("%v", err)
		}
	}
}

// A client that reads nothing, or sends nothing, does not keep a copy for ever; the latter is told why.
func TestIdleCopiesEnd(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, in := range []bool{false, true} {
		conn, peer := net.Pipe()
		ctx, cancel := context.WithCancelCause(t.Context())
		x := newCopying(conn, pace.Rate{Pause: 50 * time.Millisecond, Bytes: 1}, cancel)
		x.spec, x.root, x.log = client.CopySpec{Path: "/", In: in}, root, hclog.NewNullLogger()
		last := make(chan string, 1)
		go func() {
			if !in {
				return
			}
			_, p, err := client.ReadFrame(peer)
			if err != nil {
				t.Error(err)
			}
			last <- string(p)
		}()
		err := x.serve(ctx, conn, conn, cancel)
		if cause := context.Cause(ctx); err == nil || !strings.Contains(cause.Error(), "neither took nor sent") {
			t.Errorf("in %v: %v, for %v", in, err, cause)
		}
		if in && !strings.Contains(<-last, "neither took nor sent") {
			t.Error("the client is not told why")
		}
		conn.Close()
		peer.Close()
	}
}

// A client that takes or sends a little within each pause, but next to nothing on the whole, does not keep a copy.
func TestSlowCopiesEnd(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, in := range []bool{false, true} {
		conn, peer := net.Pipe()
		ctx, cancel := context.WithCancelCause(t.Context())
		x := newCopying(conn, pace.Rate{Pause: 500 * time.Millisecond, Bytes: 1 << 30}, cancel)
		x.spec, x.root, x.log = client.CopySpec{Path: "/", In: in}, root, hclog.NewNullLogger()
		go func() {
			if in {
				go func() { _, _ = io.Copy(io.Discard, peer) }()
				w := client.NewFrameWriter(peer)
				err := tar.NewWriter(w.Stream(client.Stdin)).WriteHeader(&tar.Header{Name: "x", Size: 1 << 30, Mode: 0o600})
				for err == nil {
					time.Sleep(20 * time.Millisecond)
					err = w.Write(client.Stdin, []byte{1})
				}
				return
			}
			for {
				time.Sleep(20 * time.Millisecond)
				if _, _, err := client.ReadFrame(peer); err != nil {
					return
				}
			}
		}()
		err := x.serve(ctx, conn, conn, cancel)
		if cause := context.Cause(ctx); err == nil || cause == nil || !strings.Contains(cause.Error(), "KiB a second") {
			t.Errorf("in %v: %v, for %v", in, err, cause)
		}
		conn.Close()
		peer.Close()
	}
}
