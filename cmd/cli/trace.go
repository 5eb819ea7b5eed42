package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

func (a *commands) traceCmd() *cobra.Command {
	var spec client.TraceSpec
	var calls, files, net bool
	var script string
	limit := new(time.Duration)
	c := app.Command("trace TASK", "show what the programs of a task do, by ktrace(2), dtrace(1) or strace(1)",
		cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
			switch {
			case files:
				spec.What = "files"
			case net:
				spec.What = "net"
			case script != "":
				if err := traceScript(&spec, script); err != nil {
					return err
				}
			default:
				spec.What = "syscalls"
			}
			spec.Limit = client.Duration(*limit)
			return a.trace(ctx, args[0], spec)
		})
	c.Long = `Shows what the processes of a task do, those to come too, for a limited time: as
kdump(1) does on FreeBSD, as strace(1) does on Linux. What is read, written and sent is
not shown, nor arguments and environments; paths and addresses are.

With --dtrace SCRIPT a script of DTrace runs with the jail's id as $1. SCRIPT is one of
opens, connects, exec, slow and offcpu, which come with freejail, or the path of a file,
for root alone: such a script sees all of the host.

The host's policy decides who may trace; each trace is an event of the task.`
	fl := c.Flags()
	fl.BoolVar(&calls, "syscalls", false, "show all system calls (the default)")
	fl.BoolVar(&files, "files", false, "show the calls that look up a path")
	fl.BoolVar(&net, "net", false, "show the calls with a network address")
	fl.StringVar(&script, "dtrace", "",
		"run a `SCRIPT` of DTrace: opens, connects, exec, slow, offcpu, or a file's path")
	fl.Func("for", "end after this `TIME`, such as 5m, or in seconds (default: 30s)", seconds(&limit))
	fl.Func("size", "end at this `SIZE` of the trace as the system writes it (default: 64MiB)", size(&spec.Size))
	c.MarkFlagsMutuallyExclusive("syscalls", "files", "net", "dtrace")
	return c
}

// traceScript reads a file; a name without a slash and an ending is one of freejail's.
func traceScript(spec *client.TraceSpec, script string) error {
	spec.What = "dtrace"
	if !strings.ContainsAny(script, "/.") {
		spec.Ready = script
		return nil
	}
	f, err := os.Open(script)
	if err != nil {
		return fmt.Errorf("--dtrace: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, client.MaxTraceScript+1))
	if err == nil && len(b) == 0 {
		err = errors.New("the file is empty")
	}
	if err != nil {
		return fmt.Errorf("--dtrace: %s: %w", script, err)
	}
	spec.Script = string(b)
	return nil
}

// traceEnds say why a trace ended.
var traceEnds = map[string]string{
	"time":   "its time is over; --for has it go on for longer",
	"size":   "it has its size; --size allows more",
	"task":   "the task has no process any more",
	"space":  "the host has no room for it in the daemon's state directory",
	"script": "the script has ended",
}

func (a *commands) trace(ctx context.Context, id string, spec client.TraceSpec) error {
	end, err := a.client().Trace(ctx, id, spec, func(e client.TraceEvent) error {
		if a.JSON {
			return a.PrintLine(e, nil)
		}
		if b := e.Began; b != nil {
			printable.Fprintf(a.Messages, "tracing %s of %s for %s, %s at most; Ctrl-C ends it\n",
				plural(b.Processes, "process", "es"), id, time.Duration(b.Limit), units.BytesSize(float64(b.Size)))
			return nil
		}
		return a.PrintLine(nil, func(w io.Writer) { printable.Fprintln(w, printable.Lines(e.Line)) })
	})
	if err != nil {
		return err
	}
	if a.JSON {
		return a.PrintLine(client.TraceEvent{End: end}, nil)
	}
	why := traceEnds[end.Why]
	if why == "" {
		why = end.Why // a newer daemon's
	}
	printable.Fprintf(a.Messages, "the trace has ended: %s\n", why)
	return nil
}
