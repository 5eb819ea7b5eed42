package task

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/internal/remove"
	"github.com/freejail/freejail/network"
)

// A task's journal is a file of JSON lines, each written by one write(2), so
// that it outlives a kill of the daemon at any point. For a crash of the host it is
// synced when its task runs and when that has ended, by the syncer; what else the
// crash takes is found by its name.
type journal struct {
	dir  string // the task's
	file *os.File
	mu   sync.Mutex // one line at a time

	named bool // its name is on the disk; the syncer's
}

const journalName = "journal" // in a task's directory

// openJournal opens the journal in a task's directory, or makes it.
func openJournal(dir string) (*journal, error) {
	// What is none is not waited for, and not followed elsewhere.
	const flags = os.O_RDWR | os.O_APPEND | os.O_CREATE | syscall.O_NONBLOCK | syscall.O_NOFOLLOW
	f, err := os.OpenFile(filepath.Join(dir, journalName), flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
	case !fi.Mode().IsRegular():
		err = fmt.Errorf("%s is not a regular file (%s)", f.Name(), fi.Mode())
	case fi.Size() > maxJournal:
		err = fmt.Errorf("%s is too large: %d bytes, at most %d", f.Name(), fi.Size(), maxJournal)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("journal: %w", err), f.Close())
	}
	return &journal{dir: dir, file: f}, nil
}

// maxJournal is far more than the longest life of a task leaves, which is held in
// memory when it is read.
const maxJournal = 64 << 20

// remove removes the task's directory and closes the journal. After an error it
// can be called again.
func (j *journal) remove() error {
	if j == nil {
		return nil
	}
	if err := removeTask(j.dir); err != nil {
		return fmt.Errorf("directory of the task: %w", err)
	}
	_ = j.file.Close() // there is no such file any more
	return nil
}

// removeTask removes a task's directory, the journal last: what is cut off on the
// way is gone on with by the next daemon, to which the journal tells that it is over.
func removeTask(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if e.Name() != journalName {
			errs = append(errs, remove.Tree(filepath.Join(dir, e.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return remove.Tree(dir)
}

// record is one line. The newest Task and Exit count; Undo lines add up and
// an Undone line takes the newest of them back.
type record struct {
	Task      *client.Task      `json:"task,omitempty"`
	Boot      string            `json:"boot,omitempty"` // of the host, in which the task was started
	PIDStart  string            `json:"pid_start,omitempty"`
	User      *image.Creds      `json:"user,omitempty"`
	Endpoint  *network.Endpoint `json:"endpoint,omitempty"` // before it is made
	Undo      *undo             `json:"undo,omitempty"`
	Undone    bool              `json:"undone,omitempty"`
	Ended     bool              `json:"ended,omitempty"` // Exit is the task's, not that of its main process alone
	Destroyed bool              `json:"destroyed,omitempty"`
	Kill      *due              `json:"kill,omitempty"` // of a stop; not in journals of older daemons
}

// undo takes one step of a start back. It holds all that is needed, so that a
// daemon which did not do the step can undo it, and undoing twice, or what was
// never done, is no error.
type undo struct {
	Op  string `json:"op"`
	Arg string `json:"arg,omitempty"`
}

func (j *journal) write(r record) error {
	if j == nil { // of a stray: the next daemon finds it as this one did
		return nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	n, err := j.file.Write(append(b, '\n'))
	if err == nil {
		return nil
	}
	if n > 0 { // the disk is full; the next line must not continue this one
		err = errors.Join(err, j.cut(n))
	}
	return fmt.Errorf("journal: %w", err)
}

// cut takes the last n bytes away.
func (j *journal) cut(n int) error {
	st, err := j.file.Stat()
	if err != nil {
		return err
	}
	return j.file.Truncate(st.Size() - int64(n))
}

// replay reads a journal back; it is nil where no task is told of. A last line
// without its end was being written when the daemon died: what it announces was
// not yet done, and it is cut off. So are zeros, which a crash of the host
// leaves where the disk knew of a file's new size before its new lines.
func (j *journal) replay() (*task, error) {
	b, err := io.ReadAll(j.file)
	if err != nil {
		return nil, err
	}
	whole, _, _ := bytes.Cut(b, []byte{0})
	whole = whole[:bytes.LastIndexByte(whole, '\n')+1]
	t := &task{journal: j, done: make(chan struct{})}
	seen := false
	sc := bufio.NewScanner(bytes.NewReader(whole))
	sc.Buffer(nil, 16<<20)
	for n := 1; sc.Scan(); n++ {
		var r record
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s line %d: %w", j.file.Name(), n, err)
		}
		if r.Task != nil {
			t.info, seen = *r.Task, true
		}
		if r.Boot != "" {
			t.boot = r.Boot
		}
		if r.PIDStart != "" {
			t.pidStart = r.PIDStart
		}
		if r.User != nil {
			t.user = r.User
		}
		if r.Endpoint != nil {
			t.endpoint = r.Endpoint
		}
		if r.Kill != nil {
			t.kill = r.Kill.read()
		}
		if r.Undo != nil {
			t.undos = append(t.undos, *r.Undo)
		}
		if r.Undone && len(t.undos) > 0 {
			t.undos = t.undos[:len(t.undos)-1]
		}
		t.ended, t.destroyed = t.ended || r.Ended, t.destroyed || r.Destroyed
	}
	if !seen || sc.Err() != nil {
		return nil, sc.Err() // and the file as it is: somebody may look at it
	}
	if torn := len(b) - len(whole); torn > 0 {
		if err := j.cut(torn); err != nil {
			return nil, fmt.Errorf("%s: %w", j.file.Name(), err)
		}
	}
	return t, nil
}

// faultPoint is where tests have the daemon killed: "OP:journalled",
// "OP:done", "OP:undone" or "OP:forgotten", with the journal's names for the steps.
// Others are "exit:told", "exit:journalled" and "recovery:begun". With "=FIFO" after it the daemon
// waits there until that FIFO was opened for writing and closed.
var faultPoint, faultPause, _ = strings.Cut(os.Getenv("FREEJAIL_FAULT_POINT"), "=")

func fault(op, moment string) {
	if faultPoint != "" && faultPoint == op+":"+moment {
		if faultPause != "" {
			_, _ = os.ReadFile(faultPause) // a test's, that finds out itself
			return
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // there is no after
		select {}
	}
}
