package daemon

import (
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

// An archive in the form of FreeBSD's own images runs as it is.
func TestImageInTheFormOfFreeBSDs(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	path, err := testimage.WriteOfficial(t.Context(), t.TempDir(), testimage.Spec{Name: "15.0-RELEASE-amd64-static",
		Cmd: []string{"inside"}})
	if err != nil {
		t.Fatal(err)
	}
	img, err := c.Import(t.Context(), client.ImportRequest{Path: path}, nil)
	if err != nil || len(img.Requests) > 0 {
		t.Fatalf("%+v %v", img, err)
	}
	task, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: path,
		Env: map[string]string{"GREETING": "FreeBSD"}})
	if err != nil {
		t.Fatal(err)
	}
	awaitGreeting(t, c, "hello FreeBSD\n")
	if task.State != client.Running {
		t.Errorf("%+v", task)
	}
	if err := c.Destroy(t.Context(), "one", true); err != nil {
		t.Error(err)
	}
	nothingLeft(t, dir)
}
