package daemon

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testconsul"
)

// lineSize is of each line that a task of these tests writes: its number.
const lineSize = 64

func writeLines(n int) int {
	w := bufio.NewWriterSize(os.Stdout, 1<<16)
	for i := range n {
		if _, err := fmt.Fprintf(w, "%0*d\n", lineSize-1, i); err != nil {
			return 1
		}
	}
	if w.Flush() != nil {
		return 1
	}
	return 0
}

// numbered checks that lines come one after the other.
type numbered struct {
	part        []byte
	lines       int
	first, last int
	wrong       []string
	missing     int
	skipped     int // files that it was told of as gone before they were read
	blank       int // lines that are not before those words
}

func (n *numbered) Write(p []byte) (int, error) {
	n.part = append(n.part, p...)
	for {
		line, rest, found := bytes.Cut(n.part, []byte("\n"))
		if !found {
			return len(p), nil
		}
		n.part = rest
		i, err := strconv.Atoi(string(line))
		switch {
		case len(line) == 0:
			n.blank++
			continue
		case bytes.HasPrefix(line, []byte("freejail: of the log ")):
			skipped := 0
			if _, err := fmt.Sscanf(string(line), "freejail: of the log %d files", &skipped); err != nil {
				n.wrong = append(n.wrong, string(line))
			}
			n.skipped, n.blank = n.skipped+skipped, n.blank-1
			continue
		case err != nil || len(line) != lineSize-1:
			n.wrong = append(n.wrong, string(line))
		case n.lines == 0:
			n.first = i
		case i <= n.last:
			n.wrong = append(n.wrong, fmt.Sprintf("%d after %d", i, n.last))
		default:
			n.missing += i - n.last - 1
		}
		if err == nil {
			n.last = i
		}
		n.lines++
	}
}

// complete wants lines up to the last of all, the first ones may be away.
func (n *numbered) complete(t *testing.T, what string, all int) {
	t.Helper()
	n.told(t, what, all, 0)
}

// told wants them too, except for those of files of so many lines of which it was told.
func (n *numbered) told(t *testing.T, what string, all, ofFile int) {
	t.Helper()
	if len(n.wrong) > 0 || n.missing != n.skipped*ofFile || n.blank != 0 || n.skipped > 0 && ofFile == 0 ||
		len(n.part) > 0 || n.last != all-1 {
		t.Errorf("%s: %d lines from %d to %d of %d, %d missing, %d bytes left, wrong: %.5q", what, n.lines, n.first,
			n.last, all, n.missing, len(n.part), n.wrong)
	}
}

func startLines(t *testing.T, c *client.Client, n int) {
	t.Helper()
	if _, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: archive(t, `{"schemaVersion":1}`),
		Command: "lines", Args: []string{strconv.Itoa(n)}}); err != nil {
		t.Fatal(err)
	}
}

func waitAndLogs(t *testing.T, c *client.Client, tail int) *numbered {
	t.Helper()
	if e, err := c.Wait(t.Context(), "one"); err != nil || e.Known && e.Code != 0 {
		t.Fatalf("the task: %+v %v", e, err)
	}
	out := &numbered{}
	if err := c.Logs(t.Context(), "one", "stdout", false, tail, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// However fast a task writes, its log is within its size at every moment, has the
// end of what was written, and who follows it gets all.
func TestLogStaysWithinItsSize(t *testing.T) {
	const limit, lines = 1 << 20, 1 << 20 // 64 MiB
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, `limits { log_size = "1MiB" }`)
	startLines(t, c, lines)
	followed, follower := &numbered{}, make(chan error, 1)
	go func() { follower <- c.Logs(t.Context(), "one", "stdout", true, -1, followed) }()
	var over atomic.Int64
	watching, watched := context.WithCancel(t.Context())
	go func() {
		for watching.Err() == nil {
			if n := sizeOf(filepath.Join(dir, "state/tasks/one")); n > limit {
				over.Store(n)
			}
		}
	}()
	out := waitAndLogs(t, c, -1)
	watched()
	out.complete(t, "what is kept", lines)
	if kept := out.lines * lineSize; kept < limit/2 || kept > limit || over.Load() > 0 {
		t.Errorf("%d bytes are kept of a log of %d, and %d were", kept, limit, over.Load())
	}
	if err := <-follower; err != nil {
		t.Error(err)
	}
	followed.complete(t, "who followed", lines)
	if _, err := os.Stat(filepath.Join(dir, "state/tasks/one/stdout.log.fifo")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the FIFO of a task that has ended: %v", err)
	}
	if last := waitAndLogs(t, c, 10000); last.lines != 10000 {
		t.Errorf("the last 10000 lines, of which some are in the older file, are %d", last.lines)
	}
}

func sizeOf(dir string) (sum int64) {
	for _, name := range []string{"stdout.log.1", "stdout.log"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err == nil {
			sum += fi.Size()
		}
	}
	return sum
}

// What fits is kept.
func TestLogKeepsWhatFits(t *testing.T) {
	const lines = 1 << 20 / lineSize
	c, _ := daemonAt(t, shortDir(t), `limits { log_size = "1MiB" }`)
	startLines(t, c, lines)
	out := waitAndLogs(t, c, -1)
	if out.complete(t, "a log as large as its limit", lines); out.first != 0 {
		t.Errorf("it begins with line %d", out.first)
	}
}

// A client that follows keeps up with a log that is smaller than what is read of
// the FIFO at once.
func TestLogThatIsSmall(t *testing.T) {
	const lines = 1 << 20 / lineSize
	c, _ := daemonAt(t, shortDir(t), `limits { log_size = "4KiB" }`)
	startLines(t, c, lines)
	followed := &numbered{}
	if err := c.Logs(t.Context(), "one", "stdout", true, -1, followed); err != nil {
		t.Fatal(err)
	}
	followed.told(t, "who followed", lines, 2<<10/lineSize) // a host that is busy may let it fall behind
	if out := waitAndLogs(t, c, -1); out.lines > 4<<10/lineSize || out.lines < 2<<10/lineSize {
		t.Errorf("%d lines are kept", out.lines)
	}
}

type stuck chan struct{}

func (s stuck) Write(p []byte) (int, error) { <-s; return len(p), nil }

// A task does not stand still for a client that follows it and reads nothing.
func TestLogWithAClientThatStandsStill(t *testing.T) {
	const lines = 1 << 20
	c, _ := daemonAt(t, shortDir(t), `limits { log_size = "1MiB" }`)
	startLines(t, c, lines)
	s, ended := make(stuck), make(chan error, 1)
	go func() { ended <- c.Logs(t.Context(), "one", "stdout", true, -1, s) }()
	waitAndLogs(t, c, -1).complete(t, "what is kept", lines)
	close(s)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// An upgrade under way loses nothing and doubles nothing; a daemon that is killed
// loses at most what it had just read.
func TestLogOverADaemonsLife(t *testing.T) {
	const lines, times = 2 << 20, 3 // 128 MiB
	for _, how := range []string{"upgrade", "end", "kill"} {
		t.Run(how, func(t *testing.T) {
			dir := shortDir(t)
			const conf = `limits { log_size = "1GiB" }`
			c, stop := daemonAt(t, dir, conf)
			startLines(t, c, lines)
			for range times {
				before := sizeOf(filepath.Join(dir, "state/tasks/one"))
				for sizeOf(filepath.Join(dir, "state/tasks/one")) < before+4<<20 && runs(t, c) {
					time.Sleep(time.Millisecond)
				}
				switch how {
				case "upgrade":
					if _, err := c.Upgrade(t.Context(), client.UpgradeRequest{}); err != nil {
						t.Fatal(err)
					}
				case "end":
					stop(syscall.SIGTERM)
					c, stop = daemonAt(t, dir, conf)
				case "kill":
					stop(syscall.SIGKILL)
					c, stop = daemonAt(t, dir, conf)
				}
			}
			out := waitAndLogs(t, c, -1)
			if how == "kill" {
				if out.missing > times*64<<10/lineSize || len(out.wrong) > times || out.last != lines-1 {
					t.Errorf("%d of %d lines are missing, to %d, wrong: %.5q", out.missing, lines, out.last, out.wrong)
				}
				return
			}
			if out.complete(t, how, lines); out.first != 0 {
				t.Errorf("it begins with line %d", out.first)
			}
		})
	}
}

// A daemon goes on when nobody reads its log any more, as where a program that got it was killed; another one after an
// upgrade too.
func TestDaemonOutlivesTheReaderOfItsLog(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	c, _ := daemonInto(t, shortDir(t), "", w)
	for range 2 { // each has a line in the log
		before, err := c.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if now, err := c.Upgrade(t.Context(), client.UpgradeRequest{}); err != nil || now.PID != before.PID {
			t.Fatalf("process %d has become %+v: %v", before.PID, now, err)
		}
	}
}

// What a task writes at its end is kept, where that comes in the middle of an upgrade.
func TestLogOfATaskThatEndsInAnUpgrade(t *testing.T) {
	letGo := held(t, "recovery:begun")
	c, _ := daemonAt(t, shortDir(t), "")
	task, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: archive(t, ""), Args: []string{"late"}})
	if err != nil {
		t.Fatal(err)
	}
	testconsul.Await(t, "the task to take signals", func() error {
		var said strings.Builder
		err := c.Logs(t.Context(), "one", "stderr", false, -1, &said)
		if err == nil && said.String() != "early words\n" {
			err = fmt.Errorf("it said %q", said.String())
		}
		return err
	})
	upgraded := make(chan error, 1)
	go func() { _, err := c.Upgrade(t.Context(), client.UpgradeRequest{}); upgraded <- err }()
	testconsul.Await(t, "the next daemon", func() error {
		info, err := c.Info(t.Context())
		if err == nil && info.Recovering == "" {
			err = errors.New("it is not recovering")
		}
		return err
	})
	if err := syscall.Kill(task.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	testconsul.Await(t, "the end of its process", func() error { // a zombie, until its parent looks
		out, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(task.PID)).Output()
		if err == nil && !strings.HasPrefix(string(out), "Z") {
			return fmt.Errorf("it is %s", out)
		}
		return nil
	})
	letGo()
	if err := <-upgraded; err != nil {
		t.Fatal(err)
	}
	if e, err := c.Wait(t.Context(), "one"); err != nil || !e.Known || e.Code != 0 {
		t.Errorf("it ended as %+v %v", e, err)
	}
	var said strings.Builder
	if err := c.Logs(t.Context(), "one", "stdout", false, -1, &said); err != nil || said.String() != "late words\n" {
		t.Errorf("its log is %q %v", said.String(), err)
	}
	if err := c.Destroy(t.Context(), "one", true); err != nil {
		t.Fatal(err)
	}
}

// A process that is collected just before the daemon is replaced ends with its exit code.
func TestExitCodeOverAnUpgrade(t *testing.T) {
	dir := shortDir(t)
	held := filepath.Join(dir, "held")
	if err := unix.Mkfifo(held, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FREEJAIL_FAULT_POINT", "exit:told="+held)
	c, _ := daemonAt(t, dir, "")
	for _, wait := range []string{"", "all"} {
		if wait == "all" && runtime.GOOS == "linux" {
			continue // which is refused there
		}
		id := "one" + wait
		if _, err := c.Start(t.Context(), client.TaskSpec{ID: id, Owner: "cli", Image: archive(t, ""), Wait: wait,
			Args: []string{"fetch", "nothing"}}); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(held, os.O_WRONLY, 0) // once the daemon has collected it, and does not go on
		if err != nil {
			t.Fatal(err)
		}
		upgraded := make(chan error, 1)
		go func() { _, err := c.Upgrade(t.Context(), client.UpgradeRequest{}); upgraded <- err }()
		select {
		case err = <-upgraded: // before it is noted
			upgraded <- err
		case <-time.After(2 * time.Second):
		}
		if err := errors.Join(f.Close(), <-upgraded); err != nil {
			t.Fatal(err)
		}
		if e, err := c.Wait(t.Context(), id); err != nil || !e.Known || e.Code != 9 {
			t.Errorf("it ended as %+v %v", e, err)
		}
		if err := c.Destroy(t.Context(), id, true); err != nil {
			t.Fatal(err)
		}
	}
}

// runs is false where all has been written before it was looked at.
func runs(t *testing.T, c *client.Client) bool {
	t.Helper()
	task, err := c.Task(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	return task.State == client.Running
}
