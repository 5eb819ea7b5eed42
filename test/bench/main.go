// Command bench measures freejail beside what a user would take instead, in
// one run on one host, and prints medians. It needs root; `make bench` sets
// its environment. Its arguments are the parts to run: starts, zfs, memory, output, logs, scale, jobs,
// cold, versions, unpacking, building, roots, networks; without any, all of them but scale and jobs.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testimage"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "program" {
		os.Exit(program(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// program is what the measured tasks do, for this binary is also their image's,
// and what measures other programs.
func program(args []string) int {
	switch args[0] {
	case "exit":
		return 0
	case "sleep":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		<-c
		return 0
	case "pour":
		return ended(pourTo(args[1]))
	case "drain":
		return ended(drainAt(args[1]))
	case "answer":
		return answer()
	case "lines":
		return lines(args[1])
	case "measure":
		if err := measure(args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	return 2
}

// ended is the exit code of a program.
func ended(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// apartVariable is set where the part networks runs apart.
const apartVariable = "FREEJAIL_BENCH_APART"

type bench struct {
	dir     string
	config  string // of the daemon, besides where its state is
	zfs     string // the dataset of its roots on ZFS, if there is one
	archive string
	// unpacked is the archive's tree, once there is one.
	unpacked string

	daemon *client.Client
	cmd    *exec.Cmd
	other  *bench // a daemon that is configured in another way; nil without
}

func run(ctx context.Context, only []string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("jails need root")
	}
	if i := slices.Index(only, "networks"); os.Getenv(apartVariable) == "" && (i >= 0 || len(only) == 0) {
		defer func() {
			if err == nil {
				err = apart(ctx, "networks")
			}
		}()
		if only = slices.DeleteFunc(slices.Clone(only), isNetworks); len(only) == 0 && i >= 0 {
			return nil
		}
	}
	dir, err := os.MkdirTemp("", "fj")
	if err != nil {
		return err
	}
	b := &bench{dir: dir}
	if b.zfs = dataset(); b.zfs != "" {
		b.config = fmt.Sprintf("storage {\n  driver      = \"union\"\n  zfs_dataset = %q\n}\n", b.zfs)
		defer func() { err = errors.Join(err, destroyDataset(b.zfs)) }()
	}
	defer func() { err = errors.Join(err, b.close()) }()
	programs, err := programs()
	if err != nil {
		return err
	}
	if b.archive, err = testimage.Write(ctx, dir, testimage.Spec{Name: "bench", Manifest: `{"schemaVersion":1}`,
		Programs: programs, Cmd: []string{"program", "sleep"}}); err != nil {
		return err
	}
	parts := map[string]func(context.Context) error{"starts": b.starts, "memory": b.memory, "output": b.output,
		"logs": b.logs, "scale": b.scale, "jobs": b.jobs, "zfs": b.zfsStarts, "cold": b.cold, "versions": b.versions,
		"unpacking": b.unpacking, "building": b.building, "roots": b.roots, "networks": b.networks}
	if len(only) == 0 {
		only = []string{"starts", "zfs", "memory", "output", "logs", "cold", "versions", "unpacking", "building",
			"roots"}
	}
	if slices.ContainsFunc(only, func(name string) bool {
		return name != "unpacking" && name != "building" && name != "roots" && name != "networks"
	}) {
		if err := b.startWithImage(ctx); err != nil {
			return err
		}
	}
	fmt.Printf("%s/%s, %d CPUs\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	for _, name := range only {
		part, ok := parts[name]
		if !ok {
			return fmt.Errorf("there is no part %q", name)
		}
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

func isNetworks(part string) bool { return part == "networks" }

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) startWithImage(ctx context.Context) error {
	if err := b.startDaemon(ctx); err != nil {
		return err
	}
	_, err := b.daemon.Import(ctx, client.ImportRequest{Path: b.archive, Name: "bench"}, nil)
	return err
}

func (b *bench) startDaemon(ctx context.Context) error {
	bin := os.Getenv("FREEJAIL_BIN")
	if bin == "" {
		return errors.New("FREEJAIL_BIN is not set; `make bench` sets it")
	}
	conf := fmt.Sprintf("state_dir = %q\nsocket = %q\nlog_level = \"warn\"\n", b.path("state"), b.path("sock"))
	if err := os.WriteFile(b.path("freejail.hcl"), []byte(conf+b.config), 0o600); err != nil {
		return err
	}
	b.cmd = exec.Command(bin, "daemon", "--config", b.path("freejail.hcl"))
	b.cmd.Stderr = os.Stderr
	if err := b.cmd.Start(); err != nil {
		return err
	}
	b.daemon = client.New(b.path("sock"))
	return until(ctx, "the daemon to answer", func() error {
		_, err := b.daemon.Info(ctx)
		return err
	})
}

// close ends every task and leaves nothing.
func (b *bench) close() error {
	var err error
	if b.other != nil {
		err = b.other.close()
	}
	return errors.Join(err, b.stopDaemon(), mount.UnmountUnder(b.dir), os.RemoveAll(b.dir))
}

func (b *bench) stopDaemon() error {
	var errs []error
	if b.cmd != nil && b.cmd.Process != nil {
		ctx := context.Background()
		tasks, err := b.daemon.Tasks(ctx)
		errs = append(errs, err)
		for _, t := range tasks {
			errs = append(errs, b.daemon.Destroy(ctx, t.Spec.ID, true))
		}
		errs = append(errs, b.cmd.Process.Signal(syscall.SIGTERM), b.cmd.Wait())
		b.cmd = nil
	}
	return errors.Join(errs...)
}

// until repeats a question until its answer is no error, for two minutes.
func until(ctx context.Context, what string, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// contest runs each contestant n times in turn and prints the medians, with how many times the first one's each is, and
// whether that is what it is to be. Of one that fails nothing is printed.
func contest(n int, what string, contestants ...contestant) error {
	took := make([][]time.Duration, len(contestants))
	for range n {
		for i, c := range contestants {
			d, err := c.run()
			if err != nil {
				return fmt.Errorf("%s: %s: %w", what, c.name, err)
			}
			took[i] = append(took[i], d)
		}
	}
	fmt.Printf("\n%s, medians of %d\n", what, n)
	first := median(took[0])
	for i, c := range contestants {
		m := median(took[i])
		ratio := float64(m) / float64(first)
		fmt.Printf("  %-58s %10s  %5.2f%s\n", c.name, round(m), ratio, c.verdict(ratio))
	}
	return nil
}

// contestant does one run and tells the time of what is measured.
type contestant struct {
	name string
	run  func() (time.Duration, error)
	// most and least are how many times the first contestant's time its own is to be; 0 is any.
	most, least float64
}

func (c contestant) verdict(ratio float64) string {
	switch {
	case c.most > 0:
		return ", " + verdict(ratio, c.most)
	case c.least > 0 && ratio >= c.least:
		return fmt.Sprintf(", target at least %.3g: met", c.least)
	case c.least > 0:
		return fmt.Sprintf(", target at least %.3g: NOT met", c.least)
	}
	return ""
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}

func round(d time.Duration) string {
	if d > time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

func mib(n uint64) string { return strconv.FormatFloat(float64(n)/(1<<20), 'f', 2, 64) + " MiB" }
