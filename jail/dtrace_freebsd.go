package jail

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/freejail/freejail/internal/bsd"
)

const dtraceProgram = "/usr/sbin/dtrace"

// dtrace runs a script with a jail's id, as long as there is time, and room.
func (m *Manager) dtrace(ctx context.Context, jid int, t Trace) (out TraceEnd, err error) {
	if t.Ready != "" {
		if t.Script, err = readyScript(t.Ready); err != nil {
			return out, err
		}
	}
	knowsJails, err := findDtrace(ctx)
	if err != nil {
		return out, err
	}
	if t.Ready != "" && !knowsJails {
		t.Script = ofOlderDtrace(t.Script)
	}
	f, err := traceFile(m.traces)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name()), f.Close()) }()
	if _, err := f.WriteString(t.Script); err != nil {
		return out, err
	}
	// Not every clause needs the jail's id.
	r := scriptRun{Trace: t, Cmd: exec.Command(dtraceProgram, "-q", "-x", "argref", "-n",
		"BEGIN { printf(\""+readyLine+"\\n\"); }", "-s", f.Name(), strconv.Itoa(jid))}
	n := 0
	err = m.eachBorn(func(of int, p bsd.Process) {
		if of == jid && !p.Zombie() {
			n++
		}
	})
	if err != nil {
		return out, err
	}
	return r.run(ctx, n)
}

// findDtrace tells whether dtrace(1) has the variable jid.
func findDtrace(ctx context.Context) (knowsJails bool, err error) {
	if _, err := os.Stat(dtraceProgram); err != nil {
		return false, fmt.Errorf("%w: there is no %s: install the package FreeBSD-dtrace of the base system",
			ErrNoTracer, dtraceProgram)
	}
	if _, err := os.Stat("/dev/dtrace/dtrace"); err != nil {
		return false, fmt.Errorf("%w: DTrace is not loaded: kldload dtraceall, and dtraceall_load=\"YES\" in "+
			"/boot/loader.conf for the next boot (the kernel needs the option KDTRACE_HOOKS, as GENERIC has)",
			ErrNoTracer)
	}
	out, err := exec.CommandContext(ctx, dtraceProgram, "-V").Output()
	if err != nil {
		return false, fmt.Errorf("dtrace -V: %w", err)
	}
	return dtraceKnowsJails(string(out)), nil
}

// readyLine is the first that dtrace(1) prints: its time begins when it traces, as it reads the kernel's types first.
const (
	readyLine = "freejail: tracing"
	readyTime = time.Minute
)

// scriptRun is one run of dtrace(1).
type scriptRun struct {
	Trace
	*exec.Cmd
	said bytes.Buffer

	mu    sync.Mutex
	why   string // it was told to end
	bytes int64
}

func (r *scriptRun) run(ctx context.Context, processes int) (out TraceEnd, err error) {
	r.Env, r.Dir, r.Stderr = []string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C"}, "/", &r.said
	r.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	pipe, err := r.StdoutPipe()
	if err == nil {
		err = r.Start()
	}
	if err != nil {
		return out, fmt.Errorf("dtrace: %w", err)
	}
	defer context.AfterFunc(ctx, r.kill)()
	timer := time.AfterFunc(readyTime, func() { r.stop(TraceTime) })
	defer timer.Stop()
	ready := false
	err = eachLine(pipe, func(text string) error {
		if !ready && text == readyLine {
			ready = true
			timer.Reset(r.Limit)
			return r.Began(processes)
		}
		return r.line(text)
	})
	if err != nil {
		r.kill() // nobody is told any more
	}
	ended := r.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return out, ctx.Err()
	case err == nil && r.why == "" && ended != nil:
		return out, toolEnded("dtrace", ended, r.said.Bytes())
	case err == nil && !ready:
		return out, fmt.Errorf("dtrace: the script did not begin within %s: %s", readyTime, r.said.Bytes())
	}
	return TraceEnd{cmp.Or(r.why, TraceScript), r.bytes}, err
}

func (r *scriptRun) kill() { _ = r.Process.Kill() } // it may have ended

// endTime is how long a script has to print what it has summed up.
const endTime = 5 * time.Second

// stop ends a script as Ctrl-C does.
func (r *scriptRun) stop(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.why == "" {
		r.why = why
		_ = r.Process.Signal(syscall.SIGINT) // it may have ended
		time.AfterFunc(endTime, r.kill)
	}
}

// line leaves out what is more than the trace's size.
func (r *scriptRun) line(text string) error {
	r.mu.Lock()
	r.bytes += int64(len(text)) + 1
	full := r.bytes > r.Size
	r.mu.Unlock()
	if full {
		r.stop(TraceSize)
		return nil
	}
	if r.Ready != "" {
		text = withoutNULs(text)
	}
	return r.Line(text)
}
