package daemon

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// At each step of a stop the daemon is killed, before the step is journalled
// and after: the next one knows how the task ended, and finishes the sweeping.
func TestKilledAtEachStepOfAStop(t *testing.T) {
	path := archive(t, greeting)
	points := []string{"exit:journalled"}
	for _, op := range []string{"jail", "mounts", "root", "ruleset"} {
		points = append(points, op+":undone", op+":forgotten")
	}
	for i, point := range points {
		t.Run(point, func(t *testing.T) {
			dir, id := shortDir(t), fmt.Sprintf("s%d-%d", os.Getpid(), i)
			t.Setenv("FREEJAIL_FAULT_POINT", point)
			c, stop := daemonAt(t, dir, "")
			ctx := t.Context()
			if _, err := c.Start(ctx, client.TaskSpec{ID: id, Owner: "cli", Image: path,
				Parameters: map[string]string{"GREETING": "x"}}); err != nil {
				t.Fatal(err)
			}
			if err := awaitLog(c, id); err != nil {
				t.Fatal(err)
			}
			_, err := c.Stop(ctx, id, client.StopRequest{Timeout: client.Duration(time.Minute)})
			for err == nil { // the end is told before all is swept up
				_, err = c.Info(ctx)
			}
			wasKilled(t, err, stop)
			c, stop = daemonAt(t, dir, "")
			exit, err := c.Wait(ctx, id)
			if err != nil || exit == nil || !exit.Known || exit.Code != 3 {
				t.Errorf("how it ended is lost: %+v %v", exit, err)
			}
			if task, err := c.Task(ctx, id); err != nil || task.State != client.Exited {
				t.Errorf("%+v %v", task, err)
			}
			for leftOnHost(t, dir, id) != "" { // before it is destroyed
				time.Sleep(10 * time.Millisecond)
			}
			if err := c.Destroy(ctx, id, false); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, dir)
			noRulesetLeft(t, c, func() { stop(syscall.SIGTERM) })
		})
	}
}

// noRulesetLeft ends a daemon and looks for the rulesets that it had: it keeps
// some for its next task, but not beyond its own end.
func noRulesetLeft(t *testing.T, c *client.Client, end func()) {
	t.Helper()
	sets, err := c.Rulesets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end()
	inKernel := kernelRulesets(t)
	for _, s := range sets {
		if slices.Contains(inKernel, s.ID) || len(s.Holders) > 0 {
			t.Errorf("ruleset %d is left, held by %v", s.ID, s.Holders)
		}
	}
}

// awaitLog returns when the program has written, and so takes signals.
func awaitLog(c *client.Client, id string) error {
	var log bytes.Buffer
	for log.Len() == 0 {
		if err := c.Logs(context.Background(), id, "stdout", false, -1, &log); err != nil {
			return err
		}
	}
	return nil
}

// Many tasks come and go, twenty at once. Nothing of them stays on the host or
// in the daemon.
func TestManyTasks(t *testing.T) {
	dir := shortDir(t)
	c, stop := daemonAt(t, dir, "")
	path := archive(t, greeting)
	prefix := fmt.Sprintf("m%d-", os.Getpid())
	hundred := func(first int) (mem uint64, rss, files int) {
		t.Helper()
		for round := range 5 {
			var wg sync.WaitGroup
			for n := range 20 {
				wg.Go(func() { oneLife(t, c, fmt.Sprintf("%s%d", prefix, first+20*round+n), path) })
			}
			wg.Wait()
		}
		info, err := c.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("ps", "-o", "rss=", "-p", strconv.Itoa(info.PID)).Output()
		if err == nil {
			rss, err = strconv.Atoi(strings.TrimSpace(string(out)))
		}
		if err != nil {
			t.Fatal(err)
		}
		if info.MemoryLiveBytes == 0 || info.MemoryLiveBytes > info.MemoryBytes {
			t.Errorf("%d of %d bytes in use are no garbage", info.MemoryLiveBytes, info.MemoryBytes)
		}
		return info.MemoryBytes, rss, openFiles(t, info.PID)
	}
	mem1, rss1, files1 := hundred(0)
	mem2, rss2, files2 := hundred(100)
	t.Logf("after 100: heap %d KiB, rss %d KiB, %d files; after 200: heap %d KiB, rss %d KiB, %d files", mem1>>10, rss1,
		files1, mem2>>10, rss2, files2)
	if mem2 > mem1+mem1/2+8<<20 || rss2 > rss1+rss1/2+16<<10 {
		t.Error("the daemon grows")
	}
	if files2 > files1+10 {
		t.Error("the daemon keeps files open")
	}
	nothingLeft(t, dir)
	if left := leftOnHost(t, dir, prefix); left != "" {
		t.Errorf("left: %s", left)
	}
	noRulesetLeft(t, c, func() { stop(syscall.SIGTERM) })
}

func oneLife(t *testing.T, c *client.Client, id, path string) {
	ctx := t.Context()
	spec := client.TaskSpec{ID: id, Owner: "cli", Image: path, Parameters: map[string]string{"GREETING": "x"},
		Limits: client.Limits{MemoryBytes: 1 << 30, MaxProcs: 100}}
	if _, err := c.Start(ctx, spec); err != nil {
		t.Errorf("%s: %v", id, err)
		return
	}
	if err := awaitLog(c, id); err != nil {
		t.Errorf("%s: %v", id, err)
	}
	if e, err := c.Stop(ctx, id, client.StopRequest{Timeout: client.Duration(time.Minute)}); err != nil || e.Code != 3 {
		t.Errorf("%s: %+v %v", id, e, err)
	}
	if err := c.Destroy(ctx, id, false); err != nil {
		t.Errorf("%s: %v", id, err)
	}
}
