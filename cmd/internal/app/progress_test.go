package app

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/spf13/pflag"
)

func flagged(p *Progress, args ...string) error {
	flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	p.Flags(flags)
	return flags.Parse(args)
}

func progress(t *testing.T, args ...string) *Progress {
	t.Helper()
	p := &Progress{}
	if err := flagged(p, args...); err != nil {
		t.Fatal(err)
	}
	return p
}

// Without a terminal there are lines, the first soon.
func TestProgressInLines(t *testing.T) {
	first, every := firstLine, lineEvery
	t.Cleanup(func() { firstLine, lineEvery = first, every })
	firstLine, lineEvery = 0, 0
	var out, messages bytes.Buffer
	a := New("x", "", &out, &messages)
	bars := progress(t).Bars(a)
	bars.Set("reading a.tar", 1<<20, 3<<20)
	bars.Set("reading a.tar", 2<<20, 3<<20)
	bars.Set("writing\x1b[2J", 5<<10, 0)
	bars.Say("line 1: RUN")
	bars.End()
	want := "reading a.tar, 1MiB of 3MiB\nreading a.tar, 2MiB of 3MiB\nwriting\\u001b[2J, 5KiB\nline 1: RUN\n"
	if got := messages.String(); got != want || out.Len() > 0 {
		t.Errorf("got %q and %q, want %q", got, out.String(), want)
	}
	messages.Reset()
	for _, flag := range []string{"--quiet", "-q", "--progress=none"} {
		quiet := progress(t, flag).Bars(a)
		quiet.Set("x", 1, 2)
		quiet.End()
	}
	firstLine = time.Hour
	bars.Set("short", 1, 2)
	if messages.Len() > 0 {
		t.Errorf("it says %q", messages.String())
	}
	if flagged(&Progress{}, "--progress=fancy") == nil {
		t.Error("--progress=fancy is taken")
	}
}

// On a terminal there are bars, which are gone before a line of text and at the end.
func TestProgressOnATerminal(t *testing.T) {
	master, slave, err := pty.Open()
	if err != nil {
		t.Skip(err)
	}
	defer master.Close()
	a := New("x", "", io.Discard, slave)
	seen := make(chan string)
	go func() {
		b, _ := io.ReadAll(master) // it ends with an error where the other side is closed
		seen <- string(b)
	}()
	bars := progress(t).Bars(a)
	bars.Set("reading a.tar", 1<<20, 3<<20)
	bars.Say("a line")
	bars.Set("counting", 7<<20, 0)
	time.Sleep(150 * time.Millisecond)
	bars.Set("counting", 9<<20, 0)
	bars.End()
	if progress(t, "--progress", "plain").Bar(a, "x").tty ||
		!progress(t, "--progress", "tty").Bar(New("x", "", io.Discard, io.Discard), "x").tty {
		t.Error("--progress is not obeyed")
	}
	if err := slave.Close(); err != nil {
		t.Fatal(err)
	}
	got := <-seen
	t.Logf("%q", got)
	for _, want := range []string{"reading a.tar", "33%", "a line\r\n", "counting", "9.0 MiB"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	if i := strings.Index(got, "a line"); i > 0 && !strings.ContainsAny(got[i-1:i], "\rK\n") {
		t.Errorf("the line stands behind a bar: %q", got)
	}
}
