package daemon

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/task"
)

// CheckUpgrade finds out, while there is still a daemon to say no, whether a
// binary is freejail's, runs here, and would start with our command line and the
// host's configuration. It returns the binary's path.
func (d *Daemon) CheckUpgrade(binary string) (string, error) {
	if _, down := d.tasks.Count(); down {
		return "", task.ErrNoUpgrade
	}
	if binary == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		// A replaced file shows as deleted on Linux; its successor has the name.
		binary = strings.TrimSuffix(self, " (deleted)")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "freejail ") {
		return "", client.Invalid("no upgrade: %s is not a freejail binary that runs on this host%s",
			binary, saidBy(err, out, 200))
	}
	args := append(os.Args[1:len(os.Args):len(os.Args)], "--check")
	out, err = exec.CommandContext(ctx, binary, args...).CombinedOutput()
	if err != nil {
		return "", client.Invalid("no upgrade: %s would not start%s", binary, saidBy(err, out, 2000))
	}
	return binary, nil
}

// saidBy is how a program ended, and the first of what it printed.
func saidBy(err error, out []byte, most int) string {
	text := ""
	if err != nil {
		text = fmt.Sprintf(" (%v)", err)
	}
	if out = bytes.TrimSpace(out); len(out) > 0 {
		text += fmt.Sprintf(": %s", out[:min(most, len(out))])
	}
	return text
}

func (d *Daemon) upgrade() error {
	binary, err := d.CheckUpgrade("")
	if err != nil {
		return err
	}
	return d.Replace(binary)
}

// Replace replaces the daemon by a binary that was found to run: the same process,
// so still the parent of all tasks. It returns only when that failed.
func (d *Daemon) Replace(binary string) error {
	return d.tasks.Still(func() error {
		return d.server.Keep(func(env []string) error {
			return d.tasks.KeepInputs(env, func(env []string) error {
				return d.networks.KeepPorts(env, func(env []string) error {
					d.log.Info("upgrading in place", "binary", binary)
					// rc(8) knows the daemon by its argument 0, whichever binary it is.
					return syscall.Exec(binary, os.Args, env)
				})
			})
		})
	})
}
