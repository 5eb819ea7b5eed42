package build

import (
	"context"
	"errors"
	"io"
)

// Runner executes a RUN. Its root is a directory with the image's files; what
// it mounts there is gone when it returns.
type Runner interface {
	Run(ctx context.Context, c Command) error
}

// Command is what a RUN executes.
type Command struct {
	Root   string // absolute path on the host
	Args   []string
	Env    []string
	Dir    string
	User   string // as USER has it; empty is root
	Linux  bool   // the image is Linux's
	Output io.Writer
}

// runStep is RUN.
type runStep struct {
	argv, env []string
	dir, user string
}

func (s *runStep) run(context.Context, *builder) error {
	return errors.New("RUN is not there yet")
}

type rootfs struct{}

func (*rootfs) close() error { return nil }
