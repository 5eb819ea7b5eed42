package task

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/jail"
)

// FuzzExecFrames has a session take anything from its client.
func FuzzExecFrames(f *testing.F) {
	frame := func(t client.FrameType, p string) []byte {
		var b bytes.Buffer
		if err := client.NewFrameWriter(&b).Write(t, []byte(p)); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	for _, b := range [][]byte{frame(client.Stdin, "ls\n"), frame(client.Stdin, ""),
		frame(client.Resize, `{"rows":24,"cols":80}`),
		frame(client.Resize, `{"rows":-1,"cols":99999999}`), frame(client.SignalFrame, "SIGTERM"), frame(200, "?"),
		{1, 0xff, 0xff, 0xff, 0xff}} {
		f.Add(append(b, frame(client.Stdin, "x")...))
	}
	m := New(Host{Log: hclog.NewNullLogger(), Jails: noJails{}})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		read := make(chan int64, 1)
		go func() {
			n, _ := io.Copy(io.Discard, r) // ends with the session
			read <- n
		}()
		x := &execSession{m: m, jail: jailPrefix + "none", pid: 1 << 30, in: w}
		x.readFrames(nil, bytes.NewReader(stream))
		if n := <-read; n > int64(len(stream)) {
			t.Errorf("the command got %d bytes of %d", n, len(stream))
		}
		r.Close()
	})
}

// slowJails begin a command when the test says, whatever their context says.
type slowJails struct {
	fakeJails
	begin chan struct{}
}

func (j slowJails) Exec(context.Context, string, jail.Process) (int, error) {
	<-j.begin
	return 1 << 30, nil
}

// A command that begins when nobody waits for it any more is killed.
func TestExecThatBeginsTooLate(t *testing.T) {
	h := &fakeHost{t: t, dir: t.TempDir()}
	m := h.manager()
	begin := make(chan struct{})
	m.Jails, m.Config.NFS.Options.Timeout = slowJails{fakeJails{fakeHost: h}, begin}, 10*time.Millisecond
	tk := &task{root: &remoteRoot{m: m, key: "one"}, user: &image.Creds{}}
	tk.info = client.Task{Spec: client.TaskSpec{ID: "one", Image: "prog"}, State: client.Running}
	if x, err := m.beginExec(t.Context(), tk, client.ExecSpec{Args: []string{"/bin/prog"}}); x != nil || err == nil ||
		!strings.Contains(err.Error(), "did not begin within") {
		t.Errorf("%+v %v", x, err)
	}
	close(begin)
	if e := <-h.exits; e.Signal != int(syscall.SIGKILL) {
		t.Errorf("it ends with %+v", e)
	}
}

// What a command wrote is all there, where it was to be killed and has ended by itself.
func TestOutputOfACommandThatEndsAsItIsKilled(t *testing.T) {
	x := &execSession{m: New(Host{Log: hclog.NewNullLogger(), Jails: noJails{}})}
	var theirs [2]*os.File
	for i := range x.out {
		var err error
		if x.out[i], theirs[i], err = os.Pipe(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := theirs[0].WriteString("words")
	if err := errors.Join(err, theirs[0].Close(), theirs[1].Close()); err != nil {
		t.Fatal(err)
	}
	exits := make(chan jail.Exit, 1)
	exits <- jail.Exit{Code: 7, Known: true}
	x.exits = exits
	x.kill()
	var out bytes.Buffer
	x.copyOutput(client.NewFrameWriter(&out))
	kind, text, err := client.ReadFrame(&out)
	if err != nil || kind != client.Stdout || string(text) != "words" || x.exit.Code != 7 {
		t.Errorf("%v %q %v, exit %+v", kind, text, err, x.exit)
	}
}
