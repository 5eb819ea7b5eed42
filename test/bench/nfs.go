package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/remove"
	"github.com/freejail/freejail/internal/testnfs"
)

// nfsRounds are few: a round unpacks a large image.
const nfsRounds = 3

const answerAddr = "127.0.0.1:18473"

// answer is the program of the large image: it answers every request.
func answer() int {
	err := http.ListenAndServe(answerAddr,
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "here") }))
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// roots compares the ways to the first answer of an image that the host has
// never had: its root over NFS, and its import and unpacking.
func (b *bench) roots(ctx context.Context) (err error) {
	second := b.path("second")
	if err := os.Mkdir(second, 0o755); err != nil {
		return err
	}
	server, err := testnfs.Start(second)
	if errors.Is(err, testnfs.ErrUnavailable) {
		fmt.Printf("\nRoots over NFS are left out: %v\n", err)
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	archive := b.path("answering.tar")
	if err := b.answeringImage(ctx, archive, "answering", 1); err != nil {
		return err
	}
	if err := b.serveRoots(ctx, server, archive); err != nil {
		return err
	}
	fmt.Printf("\nThe server of roots is a jail with its own network on this host; the archive lies on this host's " +
		"disk: no network is in its way\n")
	return contest(nfsRounds, fmt.Sprintf("From the job to the first answer, an image of %d MB that the host has "+
		"never had", int(treeBytes/1e6)),
		contestant{name: "freejail, root over NFS", run: func() (time.Duration, error) {
			return b.firstAnswer(ctx, fmt.Sprintf("nfs {\n  servers = [%q]\n}\n", testnfs.URL),
				client.TaskSpec{Image: "answering", Storage: "nfs"})
		}},
		contestant{name: "freejail, import of the archive and unpacking", run: func() (time.Duration, error) {
			return b.firstAnswer(ctx, "", client.TaskSpec{Image: archive})
		}})
}

// serveRoots has the second host export the image.
func (b *bench) serveRoots(ctx context.Context, server *testnfs.Server, archive string) error {
	dir := b.path("exporter")
	h, err := startHost(ctx, dir, fmt.Sprintf("nfs {\n  export {\n    dir = %q\n    clients = [%q]\n  }\n}\n",
		server.Roots, testnfs.Network))
	if err != nil {
		return err
	}
	_, err = h.daemon.Import(ctx, client.ImportRequest{Path: archive, Name: "answering"}, nil)
	if err == nil {
		_, err = h.daemon.Export(ctx, client.ExportRequest{Image: "answering"})
	}
	if err == nil {
		err = server.Export(filepath.Join(dir, "state", "exports"))
	}
	return errors.Join(err, h.end(ctx))
}

// firstAnswer has a host without any image run a task, and tells the time until
// its program answers.
func (b *bench) firstAnswer(ctx context.Context, conf string, spec client.TaskSpec) (took time.Duration, err error) {
	h, err := startHost(ctx, b.path("fresh"), "permit {\n  nfs = true\n}\n"+conf)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, h.end(ctx)) }()
	spec.ID, spec.Owner = fmt.Sprintf("b%d-first", os.Getpid()), "cli"
	begin := time.Now()
	if _, err := h.daemon.Start(ctx, spec); err != nil {
		return 0, err
	}
	for {
		r, err := http.Get("http://" + answerAddr)
		if err == nil {
			took = time.Since(begin)
			return took, r.Body.Close()
		}
		if t, err := h.daemon.Task(ctx, spec.ID); err != nil || t.State != client.Running {
			return 0, errors.Join(errors.New("the task does not run"), err)
		}
		if time.Since(begin) > 5*time.Minute {
			return 0, errors.New("the program does not answer")
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// freshHost is a daemon with a state directory of its own.
type freshHost struct {
	dir    string
	daemon *client.Client
	cmd    *exec.Cmd
}

func startHost(ctx context.Context, dir, conf string) (*freshHost, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	file, socket := filepath.Join(dir, "freejail.hcl"), filepath.Join(dir, "sock")
	text := fmt.Sprintf("state_dir = %q\nsocket = %q\nlog_level = \"warn\"\n%s", filepath.Join(dir, "state"),
		socket, conf)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	h := &freshHost{dir: dir, daemon: client.New(socket), cmd: exec.Command(os.Getenv("FREEJAIL_BIN"), "daemon",
		"--config", file)}
	h.cmd.Stderr = os.Stderr
	if err := h.cmd.Start(); err != nil {
		return nil, err
	}
	if err := until(ctx, "the daemon to answer",
		func() error { _, err := h.daemon.Info(ctx); return err }); err != nil {
		return nil, errors.Join(err, h.end(ctx))
	}
	return h, nil
}

// end takes the tasks, the daemon and its directory away.
func (h *freshHost) end(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	tasks, err := h.daemon.Tasks(ctx)
	errs := []error{err}
	for _, t := range tasks {
		errs = append(errs, h.daemon.Destroy(ctx, t.Spec.ID, true))
	}
	errs = append(errs, h.cmd.Process.Signal(syscall.SIGTERM), h.cmd.Wait(), mount.UnmountUnder(h.dir),
		remove.Tree(h.dir))
	return errors.Join(errs...)
}
