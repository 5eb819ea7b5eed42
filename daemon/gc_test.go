package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/images"
)

// Images that jobs give by a path would gather for ever; those that run or that
// an operator has named must stay.
func TestGCForgetsImagesByPath(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "gc {\n  older = \"0s\"\n}\n")
	path, ctx := archive(t, greeting), t.Context()
	if _, err := c.Start(ctx, client.TaskSpec{ID: "one", Owner: "nomad", Image: path,
		Parameters: map[string]string{"GREETING": "world"}}); err != nil {
		t.Fatal(err)
	}
	short, tiny := time.Nanosecond, int64(1)
	collect := func(what string, r client.GCRequest, images []string, chains int) {
		t.Helper()
		got, err := c.GC(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Images, images) || got.Chains != chains {
			t.Errorf("%s: forgot %v and %d chains, want %v and %d", what, got.Images, got.Chains, images, chains)
		}
	}
	collect("while it runs", client.GCRequest{Older: &short, MaxSize: &tiny}, nil, 0)
	if err := c.Destroy(ctx, "one", true); err != nil {
		t.Fatal(err)
	}
	collect("with the host's settings", client.GCRequest{}, nil, 0)
	if _, err := c.Import(ctx, client.ImportRequest{Path: path, Name: "kept"}, nil); err != nil {
		t.Fatal(err)
	}
	collect("with a name beside it", client.GCRequest{Older: &short}, []string{images.PathName(path)}, 0)
	if _, err := c.Image(ctx, "kept"); err != nil {
		t.Error(err)
	}
	if err := c.RemoveImage(ctx, "kept"); err != nil {
		t.Fatal(err)
	}
	collect("with none left", client.GCRequest{MaxSize: &tiny}, nil, 1)
	if list, err := c.Images(ctx); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
	below := -time.Second
	if _, err := c.GC(ctx, client.GCRequest{Older: &below}); err == nil {
		t.Error("an age below zero is taken")
	}
	nothingLeft(t, dir)
}

// A collection beside starts takes nothing that they need, be it the image that
// one has just imported or the chain that it is about to use.
func TestGCBesideStarts(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	path, ctx := archive(t, greeting), t.Context()
	done := make(chan struct{})
	var collecting, starting sync.WaitGroup
	collecting.Go(func() {
		short := time.Nanosecond
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := c.GC(ctx, client.GCRequest{Older: &short}); err != nil {
				t.Errorf("gc: %v", err)
			}
		}
	})
	for worker := range 3 {
		starting.Go(func() {
			for n := range 8 {
				id := fmt.Sprintf("w%d-%d", worker, n)
				if _, err := c.Start(ctx, client.TaskSpec{ID: id, Owner: "nomad", Image: path,
					Parameters: map[string]string{"GREETING": "x"}}); err != nil {
					t.Errorf("start: %v", err)
					continue
				}
				list, err := c.Images(ctx)
				if err != nil || len(list) != 1 || !slices.Contains(list[0].Tasks, id) || list[0].Unpacked == 0 ||
					list[0].Size == 0 {
					t.Errorf("while %s runs the images are %+v, %v", id, list, err)
				}
				if err := c.Destroy(ctx, id, true); err != nil {
					t.Errorf("destroy: %v", err)
				}
			}
		})
	}
	starting.Wait()
	close(done)
	collecting.Wait()
	short := time.Nanosecond
	if _, err := c.GC(ctx, client.GCRequest{Older: &short}); err != nil {
		t.Error(err)
	}
	if list, err := c.Images(ctx); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
	nothingLeft(t, dir)
}

// A task keeps its image when another one gets its name.
func TestGCKeepsWhatRunsWithoutAName(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	ctx := t.Context()
	first, err := c.Import(ctx, client.ImportRequest{Path: archive(t, greeting), Name: "web"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Start(ctx, client.TaskSpec{ID: "one", Owner: "nomad", Image: "web",
		Parameters: map[string]string{"GREETING": "x"}}); err != nil {
		t.Fatal(err)
	}
	if err := c.RemoveImage(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	if got, err := c.GC(ctx, client.GCRequest{}); err != nil || got.Chains != 0 || got.Bytes != 0 {
		t.Errorf("it took %+v, %v", got, err)
	}
	if i, err := c.Image(ctx, first.Digest); err != nil || !slices.Equal(i.Tasks, []string{"one"}) {
		t.Errorf("the image is %+v, %v", i, err)
	}
	if err := c.Destroy(ctx, "one", true); err != nil {
		t.Fatal(err)
	}
	if got, err := c.GC(ctx, client.GCRequest{}); err != nil || got.Chains != 1 || got.Bytes == 0 {
		t.Errorf("afterwards it took %+v, %v", got, err)
	}
	nothingLeft(t, dir)
}

// An image that cannot be read is named, with what to do, and stops neither a list
// nor a collection.
func TestAnUnreadableImageStopsNothing(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	ctx := t.Context()
	digests := map[string]string{}
	for _, name := range []string{"good", "old"} {
		path := archive(t, strings.Replace(greeting, "whom", name, 1))
		i, err := c.Import(ctx, client.ImportRequest{Path: path, Name: name}, nil)
		if err != nil {
			t.Fatal(err)
		}
		digests[name] = i.Digest
	}
	blob := filepath.Join(dir, "state", "images", "blobs", "sha256", strings.TrimPrefix(digests["old"], "sha256:"))
	if err := os.WriteFile(blob, []byte(`{"a":1,"a":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	told := func(what, problem string) {
		t.Helper()
		if !strings.Contains(problem, `"old"`) || !strings.Contains(problem, "freejail images rm old") {
			t.Errorf("%s tells %q", what, problem)
		}
	}
	list, err := c.Images(ctx)
	if err != nil || len(list) != 2 || list[0].Name != "good" || list[0].Problem != "" ||
		list[1].Digest != digests["old"] {
		t.Fatalf("the list is %+v, %v", list, err)
	}
	told("the list", list[1].Problem)
	got, err := c.GC(ctx, client.GCRequest{})
	if err != nil || len(got.Problems) != 1 {
		t.Fatalf("it took %+v, %v", got, err)
	}
	told("the collection", got.Problems[0])
	if err := c.RemoveImage(ctx, "old"); err != nil {
		t.Fatal(err)
	}
	if got, err := c.GC(ctx, client.GCRequest{}); err != nil || got.Bytes == 0 || len(got.Problems) != 0 {
		t.Errorf("afterwards it took %+v, %v", got, err)
	}
	if list, err := c.Images(ctx); err != nil || len(list) != 1 {
		t.Errorf("left: %+v, %v", list, err)
	}
}
