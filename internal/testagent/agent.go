// Package testagent runs agents, as of Consul, beside tests, demo and benchmarks.
package testagent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Patience is how long anything is waited for.
const Patience = 5 * time.Minute

// Final is an error that waiting cannot mend.
type Final struct{ error }

// Finally makes an error final.
func Finally(err error) error { return Final{err} }

func (f Final) Unwrap() error { return f.error }

// Agent is a program that runs.
type Agent struct {
	*os.Process
	name  string
	log   string
	ended chan struct{}
}

// Run starts a program whose output is appended to a file.
func Run(cmd *exec.Cmd, log string) (*Agent, error) {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	a := &Agent{cmd.Process, filepath.Base(cmd.Path), log, make(chan struct{})}
	go func() {
		_ = cmd.Wait() // its exit code says nothing here
		close(a.ended)
	}()
	return a, nil
}

// Up repeats a question until its answer is no error, or the agent has ended.
func (a *Agent) Up(ctx context.Context, what string, ask func() error) error {
	return Await(ctx, what, func() error {
		select {
		case <-a.ended:
			said, err := os.ReadFile(a.log)
			return Final{errors.Join(fmt.Errorf("%s has ended: %s", a.name, said[max(0, len(said)-1000):]), err)}
		default:
			return ask()
		}
	})
}

// End sends a signal and waits for the agent's end; one that does not end is killed.
// A nil agent has ended.
func (a *Agent) End(sig os.Signal) error {
	if a == nil {
		return nil
	}
	if err := a.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-a.ended:
		return nil
	case <-time.After(Patience):
		return errors.Join(fmt.Errorf("%s does not end", a.name), a.Kill())
	}
}

// Await repeats a question until its answer is no error, or a final one. It rests for as long as the question took: a
// slow host is to do what is waited for.
func Await(ctx context.Context, what string, ask func() error) error {
	deadline := time.Now().Add(Patience)
	for {
		asked := time.Now()
		err := ask()
		var final Final
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return errors.New("interrupted")
		case errors.As(err, &final) || time.Now().After(deadline):
			return fmt.Errorf("waited for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(max(20*time.Millisecond, time.Since(asked))):
		}
	}
}

// lowest and ports are a range of ports that neither connections of this host take, as by default those are above 10000
// on FreeBSD and above 32767 on Linux, nor Nomad gives to tasks.
const lowest, ports = 5500, 2000

// Addresses finds n ports of the loopback that are free for TCP and UDP.
func Addresses(n int) (out []net.TCPAddr, err error) {
	for range 100 * n {
		if len(out) == n {
			return out, nil
		}
		at := net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: lowest + rand.IntN(ports)}
		stream, serr := net.ListenTCP("tcp", &at)
		packets, perr := net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port})
		if serr == nil {
			defer stream.Close()
		}
		if perr == nil {
			defer packets.Close()
		}
		if err = errors.Join(serr, perr); err == nil {
			out = append(out, at)
		}
	}
	return nil, fmt.Errorf("no %d ports are free: %w", n, err)
}
