package cli

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon"
	"github.com/freejail/freejail/internal/printable"
)

// readyFD names the environment variable with the descriptor of a pipe to who
// starts the daemon, such as the rc.d script. It is told in lines how far the
// daemon is, at last "ready" or "failed" and why, and then the pipe is closed; if it
// is closed without a word the daemon has ended.
const readyFD = "FREEJAIL_READY_FD"

// progressEvery is how often somebody who waits is told how far the daemon is.
const progressEvery = 5 * time.Second

// starter is who waits for the daemon's word; nil is nobody.
type starter struct{ pipe *os.File }

// theStarter takes the pipe for itself: a task that inherited it would hold it.
func theStarter() (*starter, error) {
	text, has := os.LookupEnv(readyFD)
	if !has {
		return nil, nil
	}
	if err := os.Unsetenv(readyFD); err != nil {
		return nil, err
	}
	fd, err := strconv.Atoi(text)
	var st syscall.Stat_t
	if err == nil {
		err = syscall.Fstat(fd, &st)
	}
	if err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFIFO {
		return nil, fmt.Errorf("%s=%s: not a pipe", readyFD, text)
	}
	syscall.CloseOnExec(fd)
	return &starter{os.NewFile(uintptr(fd), "starter")}, nil
}

// say writes one line. That nobody reads it is not a reason to end.
func (s *starter) say(word, why string) {
	if s != nil {
		_, _ = printable.Fprintln(s.pipe, word, printable.Flat(why))
	}
}

func (s *starter) close() {
	if s != nil {
		_ = s.pipe.Close() // there is nothing more to be written
	}
}

// follow tells how far the recovery is until it, or the daemon, has ended.
func (s *starter) follow(d *daemon.Daemon, ended <-chan struct{}) {
	if s == nil {
		return
	}
	for {
		select {
		case <-d.Recovered():
			s.say("ready", "")
			s.close()
			return
		case <-ended:
			return
		case <-time.After(progressEvery):
			s.say(d.Progress(), "")
		}
	}
}
