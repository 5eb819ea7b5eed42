package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/task"
)

func (d *Daemon) handleUpgrade(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Binary string `json:"binary"`
	}
	err := decode(r, &in)
	binary := ""
	if _, down := d.tasks.Count(); err == nil && down {
		err = task.ErrNoUpgrade
	}
	if err == nil {
		binary, err = checkUpgrade(in.Binary)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	_ = json.NewEncoder(w).Encode(map[string]bool{"upgrading": true}) // the client may be gone
	w.(http.Flusher).Flush()
	go func() {
		if err := d.execInPlace(binary); err != nil {
			d.log.Error("no upgrade", "error", err)
		}
	}()
}

// checkUpgrade finds out, while there is still a daemon to say no, whether a
// binary is freejail's, runs here, and would start with our command line and the
// host's configuration. It returns the binary's path.
func checkUpgrade(binary string) (string, error) {
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
		return "", client.Invalid("no upgrade: %s is no freejail that runs here%s", binary, saidBy(err, out, 200))
	}
	out, err = exec.CommandContext(ctx, binary, append(os.Args[1:len(os.Args):len(os.Args)], "--check")...).CombinedOutput()
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

// Upgrade replaces the daemon by a new binary in place: the same process, so
// still the parent of all tasks. It returns only when that failed.
func (d *Daemon) Upgrade(binary string) error {
	binary, err := checkUpgrade(binary)
	if err != nil {
		return err
	}
	return d.execInPlace(binary)
}

// execInPlace takes a binary that was found to run.
func (d *Daemon) execInPlace(binary string) error {
	return d.tasks.Still(func() error {
		f, err := d.listener.(*net.UnixListener).File()
		if err != nil {
			return err
		}
		defer f.Close()
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD, 3) // without close-on-exec
		if err != nil {
			return fmt.Errorf("upgrade: %w", err)
		}
		defer unix.Close(fd)
		d.log.Info("upgrading in place", "binary", binary)
		// rc(8) knows the daemon by its argument 0, whichever binary it is.
		return syscall.Exec(binary, os.Args, append(os.Environ(), listenFD+"="+strconv.Itoa(fd)))
	})
}
