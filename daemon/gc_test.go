package daemon

import (
	"slices"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
)

// Images that jobs give by a path would gather for ever; those that run or that
// an operator has named must stay.
func TestGCForgetsImagesByPath(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "gc {\n  older = \"0s\"\n}\n")
	path, ctx := archive(t, greeting), t.Context()
	if _, err := c.Start(ctx, client.TaskSpec{ID: "one", Owner: "nomad", Image: path, Parameters: map[string]string{"GREETING": "world"}}); err != nil {
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
	if _, err := c.Import(ctx, client.ImportRequest{Path: path, Name: "kept"}); err != nil {
		t.Fatal(err)
	}
	collect("with a name beside it", client.GCRequest{Older: &short}, []string{pathName(path)}, 0)
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
