package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// stopped is why the context of a command that got a signal is at its end.
type stopped struct{ os.Signal }

func (s stopped) Error() string { return "stopped by a signal (" + s.String() + ")" }

// code is the exit code by which shells tell of a signal.
func (s stopped) code() int {
	n, ok := s.Signal.(syscall.Signal)
	if !ok {
		return exitFailed
	}
	return 128 + int(n)
}

// untilSignal gives a context that ends with the first signal. The command then
// cleans up, which a second one does not cut short; the third ends the process at
// once, for where something hangs.
func untilSignal() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	list := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup(1) has it
		list = append(list, syscall.SIGHUP)
	}
	got := make(chan os.Signal, 3)
	signal.Notify(got, list...)
	go func() {
		why := stopped{<-got}
		cancel(why)
		<-got
		<-got
		os.Exit(why.code())
	}()
	return ctx
}

// stopOf finds the signal that ended a context.
func stopOf(ctx context.Context) (why stopped, ok bool) {
	ok = errors.As(context.Cause(ctx), &why)
	return why, ok
}
