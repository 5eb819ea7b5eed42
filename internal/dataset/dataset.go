// Package dataset runs zfs(8), and calls the kernel as it does, for what the library of the daemon's drivers has not.
package dataset

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
)

// Run runs a command of zfs(8) and returns its output.
func Run(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "zfs", args...)
	// A terminal's signals are for this process, which then cleans up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("zfs %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}

// missing is what zfs(8) says of a dataset or snapshot that is not there: its
// exit code is the same for any error.
const missing = "dataset does not exist"

func has(name string) (bool, error) {
	_, err := Run(context.Background(), "list", "-H", "-o", "name", name)
	if err != nil && strings.Contains(err.Error(), missing) {
		return false, nil
	}
	return err == nil, err
}
