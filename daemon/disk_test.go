package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

const testDisk = 16 << 20

// diskTask is no name of another run on this host.
var diskTask = fmt.Sprintf("disk%d", os.Getpid())

// fillAndWait is a program that takes SIGTERM.
func fillAndWait(how string) int {
	if err := fillDisk(how); err != nil {
		fmt.Println(err)
		return 98
	}
	stopped := make(chan os.Signal, 1)
	signal.Notify(stopped, syscall.SIGTERM)
	fmt.Println("filled")
	<-stopped
	return 3
}

// fillDisk writes to /tmp of a jail, in one of the ways that tests name.
func fillDisk(how string) error {
	const dir = "/tmp/"
	switch how {
	case "what does not compress":
		return writeRandom(dir+"a", 2*testDisk)
	case "memory": // two file systems of it, none of which is full
		return errors.Join(os.WriteFile("/mem/1/a", make([]byte, testMemory*3/4), 0o644),
			os.WriteFile("/mem/2/a", make([]byte, testMemory*3/4), 0o644))
	case "file":
		return os.WriteFile(dir+"a", make([]byte, 2*testDisk), 0o644)
	case "many files": // each of them empty
		return emptyFiles(dir, 2*testDisk/4096)
	case "deep":
		return deepDirs(dir, 2*testDisk/4096)
	case "rewritten": // what is in the image's file is small, and what is in its place is not
		return os.WriteFile("/var/a", make([]byte, 2*testDisk), 0o644)
	case "under":
		return os.WriteFile(dir+"a", make([]byte, testDisk/2), 0o644)
	case "sparse":
		return errors.Join(os.WriteFile(dir+"a", make([]byte, testDisk/2), 0o644), os.Truncate(dir+"a", 1<<40))
	case "hard links":
		err := os.WriteFile(dir+"a", make([]byte, testDisk/2), 0o644)
		for i := range 1000 {
			err = errors.Join(err, os.Link(dir+"a", dir+strconv.Itoa(i)))
		}
		return err
	}
	return errors.New("fill: how?")
}

// writeRandom waits for the disk: ZFS counts what is there.
func writeRandom(path string, n int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for ; n > 0; n -= 1 << 20 {
		if _, err := io.CopyN(f, rand.Reader, 1<<20); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

func emptyFiles(dir string, n int) error {
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// deepDirs is deeper than any path is long.
func deepDirs(dir string, n int) error {
	if err := os.Chdir(dir); err != nil {
		return err
	}
	for range n {
		if err := errors.Join(syscall.Mkdir("d", 0o755), syscall.Chdir("d")); err != nil {
			return err
		}
	}
	return nil
}

func writableKinds() []string {
	if runtime.GOOS == "freebsd" {
		return []string{"union", "readonly"}
	}
	return []string{"overlay", "readonly"}
}

func fills(how, storage string) client.TaskSpec {
	return client.TaskSpec{ID: diskTask, Owner: "cli", Entrypoint: []string{"/bin/prog", "fill", how}, Storage: storage,
		Limits: client.Limits{DiskBytes: testDisk}}
}

// A task that writes more than it may is ended, whatever it writes, and everyone
// is told why.
func TestOverDiskLimit(t *testing.T) {
	path := archive(t, "")
	for _, kind := range writableKinds() {
		t.Run(kind, func(t *testing.T) {
			dir := shortDir(t)
			c, _ := daemonAt(t, dir, "")
			for _, how := range []string{"file", "many files", "deep", "rewritten"} {
				spec := fills(how, kind)
				spec.Image = path
				if _, err := c.Start(t.Context(), spec); err != nil {
					t.Fatal(err)
				}
				e, err := c.Wait(t.Context(), diskTask)
				if err != nil || !e.Disk || e.OOM || !e.Known || e.Code != 137 || e.Signal != int(syscall.SIGKILL) ||
					e.Message != "over its disk limit of 16MiB" {
					t.Errorf("%s: it ended with %+v: %v", how, e, err)
				}
				wantEvent(t, c, "exited", "killed: over its disk limit of 16MiB")
				if err := c.Destroy(t.Context(), diskTask, false); err != nil {
					t.Fatal(err)
				}
				nothingLeft(t, dir)
			}
		})
	}
}

func wantEvent(t *testing.T, c *client.Client, kind, message string) {
	t.Helper()
	found := false
	var all []string
	err := c.Events(t.Context(), 0, false, func(e client.Event) error {
		all = append(all, e.Kind+": "+e.Message)
		found = found || e.Kind == kind && e.Message == message
		return nil
	})
	if err != nil || !found {
		t.Errorf("no event %s: %s; there are: %s: %v", kind, message, strings.Join(all, "\n"), err)
	}
}

// Holes and further names of a file take nothing. A task within its limit goes on,
// also under the next daemon, which watches it too.
func TestWithinDiskLimit(t *testing.T) {
	path := archive(t, "")
	for _, kind := range writableKinds() {
		for _, how := range []string{"under", "sparse", "hard links"} {
			t.Run(kind+" "+how, func(t *testing.T) {
				dir := shortDir(t)
				c, stop := daemonAt(t, dir, "")
				spec := fills(how, kind)
				spec.Image = path
				if _, err := c.Start(t.Context(), spec); err != nil {
					t.Fatal(err)
				}
				if err := awaitLog(c, diskTask); err != nil {
					t.Fatal(err)
				}
				awaitWritten(t, c, testDisk/2, testDisk)
				stop(syscall.SIGKILL)
				c, _ = daemonAt(t, dir, "")
				awaitWritten(t, c, testDisk/2, testDisk)
				e, err := c.Stop(t.Context(), diskTask, client.StopRequest{Timeout: client.Duration(time.Minute)})
				if err != nil || e.Disk || e.Known && e.Code != 3 {
					t.Errorf("it ended with %+v: %v", e, err)
				}
				if err := c.Destroy(t.Context(), diskTask, false); err != nil {
					t.Fatal(err)
				}
				nothingLeft(t, dir)
			})
		}
	}
}

// A daemon that is killed when it is about to end a task leaves that to the next.
func TestKilledOverDiskLimit(t *testing.T) {
	dir := shortDir(t)
	t.Setenv("FREEJAIL_FAULT_POINT", "disk:journalled")
	c, stop := daemonAt(t, dir, "")
	spec := fills("file", "")
	spec.Image = archive(t, "")
	if _, err := c.Start(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	_, err := c.Wait(t.Context(), diskTask)
	wasKilled(t, err, stop)
	c, _ = daemonAt(t, dir, "")
	if e, err := c.Wait(t.Context(), diskTask); err != nil || !e.Disk || !e.Known || e.Code != 137 {
		t.Errorf("it ended with %+v: %v", e, err)
	}
	if err := c.Destroy(t.Context(), diskTask, false); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, dir)
}

// awaitWritten waits until what a task wrote is measured.
func awaitWritten(t *testing.T, c *client.Client, least, most int64) {
	t.Helper()
	for {
		task, err := c.Task(t.Context(), diskTask)
		if err != nil || task.State != client.Running || task.Written > most {
			t.Fatalf("want %d to %d bytes: %+v %v", least, most, task, err)
		}
		if task.Written >= least {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// The host bounds tasks that ask for nothing, and refuses those that ask for too
// much.
func TestDiskLimitOfTheHost(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "limits {\n  disk = \"16MiB\"\n  disk_max = \"1GiB\"\n}\n")
	spec := fills("file", "")
	spec.Image, spec.Limits.DiskBytes = archive(t, ""), 0
	task, err := c.Start(t.Context(), spec)
	if err != nil || task.Spec.Limits.DiskBytes != testDisk {
		t.Fatalf("a task that asks for nothing: %+v %v", task, err)
	}
	if e, err := c.Wait(t.Context(), diskTask); err != nil || !e.Disk {
		t.Errorf("it ended with %+v: %v", e, err)
	}
	for bytes, want := range map[int64]string{
		1<<30 + 1: "this host gives a task at most 1GiB",
		1<<20 - 1: "at least 1MiB",
		-1:        "at least 1MiB",
	} {
		spec.ID, spec.Limits.DiskBytes = diskTask+"b", bytes
		if _, err := c.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("asking for %d bytes: %v, want %q", bytes, err, want)
		}
	}
	spec.Limits.DiskBytes = 1 << 30
	if task, err = c.Start(t.Context(), spec); err != nil || task.Spec.Limits.DiskBytes != 1<<30 {
		t.Errorf("asking for as much as there is: %+v %v", task, err)
	}
	if err := errors.Join(c.Destroy(t.Context(), diskTask, true), c.Destroy(t.Context(), diskTask+"b",
		true)); err != nil {
		t.Error(err)
	}
	nothingLeft(t, dir)
}
