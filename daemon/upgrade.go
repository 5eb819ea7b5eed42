package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/internal/printable"
)

// ExitFault is the exit code of `daemon --check` on a host that lacks what a network needs, as EX_OSFILE of
// sysexits(3) is: a daemon starts there all the same.
const ExitFault = 72

// program is the file of this one as it was when it began: once it was replaced, as tar(1) and pkg(8) do, FreeBSD's
// kernel has no path of it. Its successor has the name.
var program, errProgram = os.Executable()

// CheckUpgrade finds out, while there is still a daemon to say no, whether a
// binary is freejail's, runs here, and would start with our command line and the
// host's configuration. It returns the binary's path.
func (d *Daemon) CheckUpgrade(r client.UpgradeRequest) (string, error) {
	if _, down := d.tasks.Count(); down {
		return "", task.ErrNoUpgrade
	}
	if err := d.keeps(r); err != nil {
		return "", err
	}
	binary := r.Binary
	if binary == "" {
		if errProgram != nil {
			return "", errProgram
		}
		binary = program
	}
	out, err := answerOf(askTime, nil, binary, "version")
	if client.AsError(err).Code == client.CodeUnavailable {
		return "", err
	}
	if err != nil || !strings.HasPrefix(string(out), "freejail ") {
		return "", client.Invalid("no upgrade: %s is not a freejail binary that runs on this host%s",
			binary, saidBy(err, out, 200))
	}
	args := append(os.Args[1:len(os.Args):len(os.Args)], "--check")
	out, err = answerOf(askTime, []string{stateNow + "=" + d.cfg.StateDir}, binary, args...)
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.ExitCode() == ExitFault {
		d.log.Warn("upgrade", "faults of the host", saidBy(nil, out, 2000)) // the next daemon tells the event
		return binary, nil
	}
	if client.AsError(err).Code == client.CodeUnavailable {
		return "", err
	}
	if err != nil {
		return "", client.Invalid("no upgrade: %s would not start%s", binary, saidBy(err, out, 2000))
	}
	return binary, nil
}

// askTime is for an answer of the next daemon's program, also on a host that has much else to do.
const askTime = 2 * time.Minute

// answerOf is what a program says that is to be the next daemon, or that it does not end.
func answerOf(limit time.Duration, env []string, binary string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Second // who is left of it may hold its output
	out, err := cmd.CombinedOutput()
	if err != nil && ctx.Err() != nil {
		return nil, client.Unavailable("no upgrade: %s %s did not end within %s: it hangs, or the host has too much "+
			"to do; try again", binary, strings.Join(args, " "), limit)
	}
	return out, err
}

// keeps refuses what an upgrade cannot change: the process goes on with its command line.
func (d *Daemon) keeps(r client.UpgradeRequest) error {
	const advice = "an upgrade keeps what the daemon was started with: leave the flag out, or stop the daemon and " +
		"start it with the new one"
	switch {
	case r.Config != "" && d.cfg.Path == "":
		return client.Invalid("no upgrade: --config %s: the running daemon has no configuration file; %s", r.Config,
			advice)
	case r.Config != "" && !samePath(r.Config, d.cfg.Path):
		return client.Invalid("no upgrade: --config %s: the running daemon has %s; %s", r.Config, d.cfg.Path, advice)
	case r.StateDir != "" && !samePath(r.StateDir, d.cfg.StateDir):
		return client.Invalid("no upgrade: --state-dir %s: the running daemon has %s; %s", r.StateDir, d.cfg.StateDir,
			advice)
	}
	return nil
}

// samePath tells whether two paths are one file, or would be if there were one.
func samePath(a, b string) bool {
	x, err1 := filepath.EvalSymlinks(a)
	y, err2 := filepath.EvalSymlinks(b)
	return filepath.Clean(a) == filepath.Clean(b) || err1 == nil && err2 == nil && x == y
}

// stateNow names the environment variable by which a check knows the state directory of the running daemon.
const stateNow = "FREEJAIL_STATE_DIR_NOW"

// CheckState refuses an upgrade to another state directory, whose daemon would know none of the tasks.
func CheckState(dir string) error {
	if now := os.Getenv(stateNow); now != "" && !samePath(dir, now) {
		return fmt.Errorf("state_dir is %s now, and the running daemon has its tasks in %s: "+
			"to change it, end them, stop the daemon and start it", dir, now)
	}
	return nil
}

// saidBy is how a program ended, and the first of what it printed, in one line.
func saidBy(err error, out []byte, most int) string {
	text := ""
	if err != nil {
		text = fmt.Sprintf(" (%v)", err)
	}
	if out = bytes.TrimSpace(out); len(out) > 0 {
		text += ": " + printable.Flat(string(out[:min(most, len(out))]))
	}
	return text
}

func (d *Daemon) upgrade() error {
	binary, err := d.CheckUpgrade(client.UpgradeRequest{})
	if err != nil {
		return err
	}
	return d.Replace(binary)
}

// Replace replaces the daemon by a binary that was found to run: the same process,
// so still the parent of all tasks. It returns only when that failed.
func (d *Daemon) Replace(binary string) error {
	return d.tasks.Still(func() error {
		return d.tasks.KeepStreams(os.Environ(), func(env []string) error {
			return d.networks.KeepPorts(env, func(env []string) error {
				return d.scrapes.Keep(env, func(env []string) error {
					if err := d.record.Spans.Flush(); err != nil {
						d.log.Warn("spans are lost", "error", err)
					}
					d.restStores() // which an older version would not know
					// The last thing: nobody is answered between it and exec.
					return d.server.Keep(env, func(env []string) error {
						d.log.Info("upgrading in place", "binary", binary)
						// rc(8) knows the daemon by its argument 0, whichever binary it is.
						return syscall.Exec(binary, os.Args, env)
					})
				})
			})
		})
	})
}
