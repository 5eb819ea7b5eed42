package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
)

// ensureDaemon returns the daemon's info, and starts a daemon, detached, where
// none answers, the configuration allows it, and the host starts none itself.
func (d *Driver) ensureDaemon(ctx context.Context) (*client.Info, error) {
	c := d.daemon()
	info, err := c.Info(ctx)
	if err == nil || !errors.Is(err, client.ErrNoDaemon) || !d.config().AutoStart {
		return info, err
	}
	if who := hostStarts(d.config().Socket); who != "" {
		d.tellOwner(who)
		return nil, fmt.Errorf("%w; it is started by %s, not by the plugin", err, who)
	}
	if err := d.startDaemon(ctx); err != nil {
		return nil, err
	}
	return c.Info(ctx)
}

// tellOwner says once who starts the daemon.
func (d *Driver) tellOwner(who string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ownerTold {
		d.ownerTold = true
		d.log.Warn("no daemon answers, and autostart has no effect: the host starts the daemon", "by", who)
	}
}

// waitRecovered returns the daemon's info when it is not recovering any more.
func (d *Driver) waitRecovered(ctx context.Context) (*client.Info, error) {
	for {
		info, err := d.ensureDaemon(ctx)
		if err != nil || info.Recovering == "" {
			return info, err
		}
		if !client.Pause(ctx, 50*time.Millisecond) {
			return info, nil
		}
	}
}

// startDaemon holds a lock beside the socket, so that two plugins at once start
// one daemon.
func (d *Driver) startDaemon(ctx context.Context) error {
	cfg := d.config()
	lock, err := os.OpenFile(cfg.Socket+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		defer lock.Close()
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	if _, err := d.daemon().Info(ctx); err == nil {
		return nil // another plugin was first
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(cfg.LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start the daemon: log_file: %w", err)
	}
	defer log.Close()
	args := []string{"daemon", "--socket", cfg.Socket, "--log-file", cfg.LogFile}
	if cfg.Config != "" {
		args = append(args, "--config", cfg.Config)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = daemonEnv()
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	d.log.Info("started a daemon", "pid", cmd.Process.Pid, "log", cfg.LogFile)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		if _, err := d.daemon().Info(ctx); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("the daemon exited (%v): see %s", err, cfg.LogFile)
		case <-ctx.Done():
			return fmt.Errorf("the daemon does not answer: see %s", cfg.LogFile)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// daemonEnv leaves out what would make the daemon take itself for a plugin.
func daemonEnv() []string {
	var out []string
	for _, name := range []string{"PATH", "HOME", "LANG", "TZ", "RUNC_BIN", "FREEJAIL_FAULT_POINT"} {
		if v, ok := os.LookupEnv(name); ok {
			out = append(out, name+"="+v)
		}
	}
	return out
}
