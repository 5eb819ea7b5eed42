package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/freejail/freejail/internal/printable"
)

// Bounds of a credential helper. One that asks a cloud for a token tries again by itself for some seconds. The time is
// a variable for tests.
var helperTime = time.Minute

const (
	maxHelperAnswer = 64 << 10 // bytes; a token of a few KiB is usual
	maxHelperWords  = 600      // bytes of what it writes to its standard error
)

// notInKeychain is what helpers of docker's say, by their protocol, of a registry that they have nothing for.
const notInKeychain = "credentials not found in native keychain"

// plainWords are an error as helpers write one on their standard output, where their answer would be: words of letters
// alone. Anything else there may be, or have in it, a secret.
var plainWords = regexp.MustCompile(`^[A-Za-z]{1,16}[.,:;!]?( [A-Za-z]{1,16}[.,:;!]?)*$`)

// askHelper has a credential helper of docker's tell the credentials for a registry, or for a part of one:
// https://docs.docker.com/reference/cli/docker/login/#credential-helper-protocol. What it says on its standard error is
// in the error, or told to warn; what it answers is not, but for what the protocol has it say instead of credentials.
func askHelper(ctx context.Context, program, server string, warn func(string)) (auth.Credential, error) {
	ctx, cancel := context.WithTimeout(ctx, helperTime)
	defer cancel()
	answer, words := &firstBytes{most: maxHelperAnswer}, &firstBytes{most: maxHelperWords}
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.Env = helperEnv(os.Environ())
	cmd.Stdin = strings.NewReader(server)
	cmd.Stdout, cmd.Stderr = answer, words
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its children end with it at the time limit
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // what it has started may have its output still
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) { // it has ended well
		err = nil
	}
	said := string(bytes.TrimSpace(answer.b))
	switch {
	case err != nil && ctx.Err() != nil:
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("it did not answer within %s", helperTime)
		} else {
			err = ctx.Err()
		}
	case err != nil && said == notInKeychain:
		return auth.EmptyCredential, nil
	case err != nil && len(said) <= maxHelperWords && plainWords.MatchString(said):
		err = fmt.Errorf("%w: %s", err, said)
	case err == nil && answer.over:
		err = fmt.Errorf("its answer has more than %d bytes", maxHelperAnswer)
	}
	var told struct{ Username, Secret string }
	if err == nil && json.Unmarshal(answer.b, &told) != nil {
		err = errors.New("its answer is not an object of JSON with a Username and a Secret")
	}
	w := strings.TrimSpace(printable.Flat(string(words.b)))
	switch {
	case err != nil && w != "":
		return auth.EmptyCredential, fmt.Errorf("the credential helper %s: %w: %s", program, err, w)
	case err != nil:
		return auth.EmptyCredential, fmt.Errorf("the credential helper %s: %w", program, err)
	case w != "":
		warn(fmt.Sprintf("the credential helper %s: %s", program, w))
	}
	if told.Username == "<token>" {
		return auth.Credential{RefreshToken: told.Secret}, nil
	}
	return auth.Credential{Username: told.Username, Password: told.Secret}, nil
}

// helperEnv is the environment of this program, with the home of its user where rc(8) or systemd gave none: helpers
// keep their configuration and their tokens there.
func helperEnv(env []string) []string {
	i := slices.IndexFunc(env, func(v string) bool { return strings.HasPrefix(v, "HOME=") })
	if i >= 0 && env[i] != "HOME=" && env[i] != "HOME=/" {
		return env
	}
	u, err := user.Current()
	if err != nil || u.HomeDir == "" {
		return env
	}
	return append(slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, "HOME=") }),
		"HOME="+u.HomeDir)
}

// firstBytes keeps the first bytes of what is written, and takes all.
type firstBytes struct {
	b    []byte
	most int
	over bool
}

var _ io.Writer = (*firstBytes)(nil)

func (f *firstBytes) Write(p []byte) (int, error) {
	kept := p[:min(len(p), f.most-len(f.b))]
	f.b, f.over = append(f.b, kept...), f.over || len(kept) < len(p)
	return len(p), nil
}
