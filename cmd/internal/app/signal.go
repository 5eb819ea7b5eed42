package app

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// stopped is why the context of a command that got a signal is at its end.
type stopped struct{ syscall.Signal }

func (s stopped) Error() string { return "interrupted by " + unix.SignalName(s.Signal) }

// code is the exit code by which shells tell of a signal.
func (s stopped) code() int { return 128 + int(s.Signal) }

// UntilSignal returns a context that ends with the first SIGINT or SIGTERM, or one
// of more that the process does not ignore, as nohup(1) has it ignore SIGHUP. The
// command then cleans up, which a second signal does not cut short; the third ends
// the process at once, for where something hangs.
func UntilSignal(more ...os.Signal) context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	got := make(chan os.Signal, 3)
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM)
	for _, s := range more {
		if !signal.Ignored(s) {
			signal.Notify(got, s)
		}
	}
	go func() {
		why := stopped{(<-got).(syscall.Signal)}
		cancel(why)
		<-got
		<-got
		runLast()
		os.Exit(why.code())
	}()
	return ctx
}

// last is what is done where the process ends at once, as its terminal must not stay as
// the command has set it.
var last struct {
	sync.Mutex
	f func()
}

// AtExit has f called where a signal ends the process at once, until it is called with nil.
func AtExit(f func()) {
	last.Lock()
	defer last.Unlock()
	last.f = f
}

func runLast() {
	last.Lock()
	defer last.Unlock()
	if last.f != nil {
		last.f()
	}
}

// SignalOf finds the signal that interrupted a command.
func SignalOf(ctx context.Context) (syscall.Signal, bool) {
	why, ok := stopOf(ctx)
	return why.Signal, ok
}

// Die ends the process by a signal that it has caught.
func Die(s syscall.Signal) {
	runLast()
	os.Exit(stopped{s}.code())
}

// stopOf finds the signal that ended a context.
func stopOf(ctx context.Context) (why stopped, ok bool) {
	ok = errors.As(context.Cause(ctx), &why)
	return why, ok
}

// cancelled tells whether an error says nothing but that the context has ended.
func cancelled(err error) bool {
	switch e := err.(type) {
	case stopped:
		return true
	case interface{ Unwrap() error }:
		return cancelled(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			if !cancelled(inner) {
				return false
			}
		}
		return true
	}
	return err == context.Canceled
}
