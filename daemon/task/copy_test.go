package task

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/client"
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
		x := newCopying(conn, 50*time.Millisecond, cancel)
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
