package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
)

// A program that hangs, or a host that is too busy for it, is not taken for one that is not freejail's.
func TestUpgradeToAProgramThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hangs")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nsleep 60\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := answerOf(50*time.Millisecond, nil, path, "version")
	if err == nil || client.AsError(err).Code != client.CodeUnavailable ||
		!strings.Contains(err.Error(), path+" version did not end within 50ms") {
		t.Errorf("it is told as: %v", err)
	}
	if out, err := answerOf(time.Minute, []string{"FREEJAIL_ASKED=x"}, "/bin/sh", "-c", "echo $FREEJAIL_ASKED"); err != nil ||
		string(out) != "x\n" {
		t.Errorf("one that answers: %q, %v", out, err)
	}
}

// What the next program says of why it would not start is told in one line.
func TestWhatARefusedUpgradeSays(t *testing.T) {
	got := saidBy(errors.New("exit status 1"), []byte("freejail: host.hcl: 2 faults:\n  first\n  second\n"), 2000)
	if want := " (exit status 1): freejail: host.hcl: 2 faults: first; second"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// After an upgrade a child that was just forked may still have the lock, which is waited for; another daemon's is not.
func TestLockThatAChildOfTheLastProgramHas(t *testing.T) {
	for name, c := range map[string]struct {
		pid   int
		comes bool
	}{"this process": {os.Getpid(), true}, "another daemon": {os.Getppid(), false}} {
		path := filepath.Join(t.TempDir(), "lock")
		if err := os.WriteFile(path, fmt.Appendf(nil, "%d boot\n", c.pid), 0o600); err != nil {
			t.Fatal(err)
		}
		child, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(child.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		d := &Daemon{boot: "boot"}
		if d.lock, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
		executes := make(chan error, 1)
		go func() {
			if c.comes {
				time.Sleep(100 * time.Millisecond)
				executes <- child.Close()
				return
			}
			executes <- nil
		}()
		if err := d.takeLock(); (err == nil) != c.comes {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-executes; err != nil {
			t.Error(err)
		}
		child.Close()
		d.lock.Close()
	}
}
