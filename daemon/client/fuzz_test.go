package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
)

// answering is a daemon that says one thing.
type answering struct {
	status int
	body   []byte
}

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r.Body.Close()
	}
	return &http.Response{StatusCode: a.status, Status: http.StatusText(a.status),
		Body: io.NopCloser(bytes.NewReader(a.body)), Request: r, Header: http.Header{}}, nil
}

// FuzzAnswer has every call read any answer: what has no error has a value.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{`null`, `{}`, `{"id":"one"}`, `[]`, `{"code":"upgrading","message":"x"}`,
		`{"code":"not_found","message":"no"}`, `{"image":{"name":"x"}}`,
		`{"error":{"code":"invalid","message":"x"}}`, "{\"seq\":1}\n{\"seq\":2}\n", `{"code":0,"known":true}`, ``,
		`{"exit":null}`} {
		f.Add(uint16(200), []byte(s))
		f.Add(uint16(400), []byte(s))
		f.Add(uint16(204), []byte(s))
	}
	f.Fuzz(func(t *testing.T, status uint16, body []byte) {
		c := &Client{socket: "s", http: &http.Client{Transport: answering{200 + int(status)%400, body}}}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // who is told to ask again does so until then
		got := func(what string, isNil bool, err error) {
			if err == nil && isNil {
				t.Errorf("%s: neither an answer nor an error", what)
			}
		}
		task, err := c.Start(ctx, TaskSpec{})
		got("start", task == nil, err)
		task, err = c.Task(ctx, "one")
		got("task", task == nil, err)
		exit, err := c.Wait(ctx, "one")
		got("wait", exit == nil, err)
		exit, err = c.Stop(ctx, "one", StopRequest{})
		got("stop", exit == nil, err)
		info, err := c.Info(ctx)
		got("info", info == nil, err)
		img, err := c.Pull(ctx, PullRequest{}, func(ImageProgress) {})
		got("pull", img == nil, err)
		img, err = c.Image(ctx, "x")
		got("image", img == nil, err)
		u, err := c.Stats(ctx, "one")
		got("stats", u == nil, err)
		dec, err := c.CheckPolicy(ctx, TaskSpec{})
		got("check", dec == nil, err)
		gc, err := c.GC(ctx, GCRequest{})
		got("gc", gc == nil, err)
		for _, call := range []func() error{
			func() error { _, err := c.Tasks(ctx); return err }, func() error { _, err := c.AllStats(ctx); return err },
			func() error { _, err := c.Images(ctx); return err }, func() error { _, err := c.Doctor(ctx); return err },
			func() error { return c.Events(ctx, 0, true, func(Event) error { return nil }) },
			func() error { return c.Destroy(ctx, "one", true) }, func() error { return c.Signal(ctx, "one", "SIGHUP") },
			func() error { return c.Logs(ctx, "one", "stdout", false, 1, io.Discard) },
		} {
			var e *Error
			if err := call(); errors.As(err, &e) && e.Message == "" {
				t.Errorf("an error that says nothing: %#v", e)
			}
		}
	})
}

// FuzzFrames: what is read as frames is what was written, and no more than the
// limit is held for one.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 2, 'h', 'i', 6, 0, 0, 0, 2, '{', '}'})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{2, 0, 0x10, 0, 1})
	f.Fuzz(func(t *testing.T, stream []byte) {
		in := bytes.NewReader(stream)
		var again bytes.Buffer
		w := NewFrameWriter(&again)
		whole := 0
		for {
			kind, p, err := ReadFrame(in)
			if len(p) > maxFrame {
				t.Fatalf("a frame of %d bytes", len(p))
			}
			if err != nil {
				break
			}
			whole = len(stream) - in.Len()
			if err := w.Write(kind, p); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(again.Bytes(), stream[:whole]) {
			t.Errorf("read %q, which is %q", stream[:whole], again.Bytes())
		}
	})
}
