package readable

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// pipe has ends that Go does not wait for.
func pipe(t *testing.T) (r, w int) {
	t.Helper()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return fds[0], fds[1]
}

func closed(t *testing.T, fds ...int) {
	t.Helper()
	for _, fd := range fds {
		if err := unix.Close(fd); err != nil {
			t.Error(err)
		}
	}
}

func next(t *testing.T, fd int) <-chan struct{} {
	t.Helper()
	called := make(chan struct{})
	if err := Next(fd, func() { close(called) }); err != nil { // a second call would panic
		t.Fatal(err)
	}
	return called
}

func write(t *testing.T, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, []byte("x")); err != nil {
		t.Fatal(err)
	}
}

func TestNext(t *testing.T) {
	r, w := pipe(t)
	called := next(t, r)
	select {
	case <-called:
		t.Error("there was nothing to read")
	default:
	}
	write(t, w)
	<-called
	<-next(t, r) // nobody has read it yet
	if _, err := unix.Read(r, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	called = next(t, r)
	closed(t, w)
	<-called // it is told of the end too
	if Cancel(r) {
		t.Error("what was called is cancelled")
	}
	closed(t, r)
}

func TestCancel(t *testing.T) {
	r, w := pipe(t)
	called := next(t, r)
	if !Cancel(r) || Cancel(r) {
		t.Error("want the first call to cancel it, and no other")
	}
	write(t, w)
	other, otherW := pipe(t)
	write(t, otherW)
	<-next(t, other) // all that was told before is over
	select {
	case <-called:
		t.Error("it was cancelled")
	default:
	}
	Cancel(other)
	closed(t, r, w, other, otherW)
}

// A descriptor that is closed and comes again is another one.
func TestNumbersComeAgain(t *testing.T) {
	for range 200 {
		r, w := pipe(t)
		called := next(t, r)
		write(t, w)
		if !Cancel(r) {
			<-called
		}
		closed(t, r, w)
	}
}

func TestNotToBeWaitedFor(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(f.Fd())
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Next(fd, func() {}); err == nil {
		t.Error("want an error of a closed descriptor")
	}
}
