package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/remove"
	"github.com/freejail/freejail/internal/testagent"
)

const (
	// coldLayers are those of the image that nobody has yet, beside the one of its program.
	coldLayers = 4
	coldRounds = 3
	coldRef    = "bench/cold:1"
)

// cold compares the ways from a job to the first answer of an image that the host has to fetch from a registry.
func (b *bench) cold(ctx context.Context) (err error) {
	port, stop, err := b.serveCold(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	a, err := b.startNomad(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	far, err := newLink(port)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, far.Close()) }()
	farPort := far.Addr().(*net.TCPAddr).Port
	for _, from := range []struct {
		where string
		port  int
	}{{"in a registry of this host", port},
		{fmt.Sprintf("in a registry behind a link of %d Mbit/s", linkRate*8/1_000_000), farPort}} {
		ref := fmt.Sprintf("127.0.0.1:%d/%s", from.port, coldRef)
		job := func(pull bool) func() (time.Duration, error) {
			return func() (time.Duration, error) { return a.coldJob(ctx, ref, pull) }
		}
		list := []contestant{{name: "freejail: nomad job run", run: job(false)},
			{name: "freejail pull, then nomad job run", run: job(true)}}
		if _, err := exec.LookPath("podman"); err == nil && runtime.GOOS == "linux" {
			list = append(list, contestant{name: "podman run, which pulls, without Nomad", least: 1 / 0.6,
				run: func() (time.Duration, error) { return b.coldPodman(ctx, ref) }})
		} else {
			fmt.Printf("\npodman is left out: it is not here\n")
		}
		if err := contest(coldRounds, fmt.Sprintf("From the job to the first answer, an image of %d MB in %d layers "+
			"that the host has never had, %s", int(treeBytes/1e6), coldLayers+1, from.where), list...); err != nil {
			return err
		}
	}
	return nil
}

// linkRate is how many bytes in a second a link lets through of what a registry sends.
const linkRate = 50_000_000

// link is a way to a port of this host that is as slow as one to another host.
type link struct {
	net.Listener
	to   string
	mu   sync.Mutex
	at   time.Time // when the next byte may go through
	came int64     // bytes that went
}

// sent is how many bytes have come from the other side.
func (k *link) sent() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.came
}

func newLink(port int) (*link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	k := &link{Listener: l, to: fmt.Sprintf("127.0.0.1:%d", port)}
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			go k.join(from)
		}
	}()
	return k, nil
}

// join ends with either side.
func (k *link) join(from net.Conn) {
	to, err := net.Dial("tcp", k.to)
	if err != nil {
		from.Close()
		return
	}
	go func() {
		_, _ = io.Copy(to, from)
		to.Close()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := to.Read(buf)
		k.mu.Lock()
		if now := time.Now(); k.at.Before(now) {
			k.at = now
		}
		k.came += int64(n)
		k.at = k.at.Add(time.Duration(n) * time.Second / linkRate)
		wait := time.Until(k.at)
		k.mu.Unlock()
		time.Sleep(wait)
		if n > 0 {
			_, werr := from.Write(buf[:n])
			err = errors.Join(err, werr)
		}
		if err != nil {
			from.Close()
			to.Close()
			return
		}
	}
}

// serveCold makes the image and a registry that has it.
func (b *bench) serveCold(ctx context.Context) (port int, stop func() error, err error) {
	archive := b.path("cold.tar")
	if err := b.answeringImage(ctx, archive, "cold", coldLayers); err != nil {
		return 0, nil, err
	}
	if port, stop, err = b.serveRegistry(ctx); err != nil {
		return 0, nil, err
	}
	_, err = command(ctx, os.Getenv("FREEJAIL_BUILD_BIN"), "push", "-q", archive,
		fmt.Sprintf("127.0.0.1:%d/%s", port, coldRef))
	if err = errors.Join(err, os.Remove(archive)); err != nil {
		err = errors.Join(err, stop())
	}
	return port, stop, err
}

// serveRegistry starts an empty registry, which goes with its end.
func (b *bench) serveRegistry(ctx context.Context) (port int, stop func() error, err error) {
	at, err := testagent.Addresses(1)
	if err != nil {
		return 0, nil, err
	}
	port = at[0].Port
	dir, err := os.MkdirTemp(b.dir, "registry-")
	if err != nil {
		return 0, nil, err
	}
	host := fmt.Sprintf("127.0.0.1:%d", port)
	cmd := exec.CommandContext(ctx, os.Getenv("FREEJAIL_BUILD_BIN"), "serve", "-q", "--listen", host, dir)
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	stop = func() error {
		err := cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // ended by us
		return errors.Join(err, remove.Tree(dir))
	}
	err = until(ctx, "the registry to answer", func() error {
		r, err := http.Get("http://" + host + "/v2/")
		if err != nil {
			return err
		}
		return r.Body.Close()
	})
	if err != nil {
		err = errors.Join(err, stop())
	}
	return port, stop, err
}

// answeringImage is a tree like a base system's in so many layers, and this program in a further one.
func (b *bench) answeringImage(ctx context.Context, archive, name string, parts int) (err error) {
	store := b.path("store-" + name)
	s, err := layout.OpenStore(store, image.Limits{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close(), remove.Tree(store)) }()
	own, err := s.Import(ctx, b.archive, "bench", nil)
	if err != nil {
		return err
	}
	cfg := own.Config
	cfg.Config.Cmd = []string{"program", "answer"}
	var layers []ocispec.Descriptor
	var diffs []digest.Digest
	for i := range parts {
		plain := digest.Canonical.Digester()
		r, w := io.Pipe()
		go func() {
			z := gzip.NewWriter(w)
			w.CloseWithError(errors.Join(partOfTree(io.MultiWriter(z, plain.Hash()), i, parts), z.Close()))
		}()
		d, err := s.Add(ctx, ocispec.MediaTypeImageLayerGzip, r)
		r.CloseWithError(err)
		if err != nil {
			return err
		}
		layers, diffs = append(layers, d), append(diffs, plain.Digest())
	}
	cfg.RootFS.DiffIDs = append(diffs, own.Config.RootFS.DiffIDs...)
	if _, err := s.Put(ctx, name, cfg, append(layers, own.Layers...), nil); err != nil {
		return err
	}
	return writeFile(archive, func(w io.Writer) error { return s.Export(ctx, name, w) })
}

// partOfTree writes one of several parts of the tree of baseTree: links are in the part of what they name.
func partOfTree(w io.Writer, part, parts int) error {
	r, all := io.Pipe()
	go func() { all.CloseWithError(baseTree(all)) }()
	defer r.Close()
	tr, tw := tar.NewReader(r), tar.NewWriter(w)
	files := -1
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return tw.Close()
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeReg {
			files++
		}
		if h.Typeflag != tar.TypeDir && files%parts != part {
			continue
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return err
		}
	}
}

// coldJob tells the time from a job to its first answer, with a pull before it if that is asked for, and has the host
// forget the image after.
func (a *agent) coldJob(ctx context.Context, ref string, pull bool) (took time.Duration, err error) {
	defer func() {
		if err == nil {
			err = a.b.forget(ctx, ref)
		}
	}()
	j := a.job(fmt.Sprintf("cold-%d", time.Now().UnixNano()), "freejail", 1, map[string]any{"image": ref})
	mb := 128
	j.TaskGroups[0].Tasks[0].Resources.MemoryMB = &mb
	begin := time.Now()
	if pull {
		if _, err := a.b.daemon.Pull(ctx, client.PullRequest{Ref: ref}, nil); err != nil {
			return 0, err
		}
	}
	if _, _, err := a.api.Jobs().Register(j, nil); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, a.PurgeJob(ctx, *j.ID)) }()
	err = until(ctx, "the first answer", answered)
	return time.Since(begin), err
}

// forget has the daemon keep nothing of the image.
func (b *bench) forget(ctx context.Context, ref string) error {
	if err := b.daemon.RemoveImage(ctx, ref); err != nil {
		return err
	}
	freed, err := b.daemon.GC(ctx, client.GCRequest{})
	if err == nil && (freed.Chains != 1 || freed.Bytes < treeBytes/10) {
		err = fmt.Errorf("gc has left something of %s: %+v", ref, freed)
	}
	return err
}

// answered is an error until the program of the image answers.
func answered() error {
	r, err := http.Get("http://" + answerAddr)
	if err != nil {
		return err
	}
	return r.Body.Close()
}

// coldPodman tells the time until the first answer of a container of podman.
func (b *bench) coldPodman(ctx context.Context, ref string) (time.Duration, error) {
	return b.withPodman(ctx, func(podman func(...string) error) (time.Duration, error) {
		begin := time.Now()
		if err := podman(append(runByPodman(), ref)...); err != nil {
			return 0, err
		}
		err := until(ctx, "the first answer", answered)
		return time.Since(begin), err
	})
}

// withPodman gives podman with a storage that is new, of which nothing stays.
func (b *bench) withPodman(ctx context.Context,
	do func(podman func(args ...string) error) (time.Duration, error)) (took time.Duration, err error) {
	dir := b.path("podman")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, err
	}
	podman := func(args ...string) error {
		_, err := command(ctx, append([]string{"podman", "--root", filepath.Join(dir, "root"), "--runroot",
			filepath.Join(dir, "run"), "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs"}, args...)...)
		return err
	}
	defer func() {
		err = errors.Join(err, podman("rm", "--all", "--force", "--time", "0"), mount.UnmountUnder(dir),
			remove.Tree(dir))
	}()
	return do(podman)
}

// runByPodman runs an image, which follows, in the background.
func runByPodman() []string {
	return []string{"run", "--detach", "--quiet", "--tls-verify=false", "--network", "host", "--cgroups", "disabled",
		"--security-opt", "seccomp=unconfined", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"}
}
