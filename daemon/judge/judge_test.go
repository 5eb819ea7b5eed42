package judge

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/images"
	"github.com/freejail/freejail/daemon/ledger"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/internal/testimage"
	"github.com/freejail/freejail/storage"
)

// running are tasks that hear what is told of them.
type running struct {
	Tasks
	tasks []client.Task
	heard []string
}

func (r *running) Alive() []client.Task { return r.tasks }

func (r *running) Event(id, _, message string) { r.heard = append(r.heard, id+": "+message) }

func (r *running) UsesChain(string) bool { return false }

func (r *running) Sweep(context.Context, string) (int, error) { return 0, nil }

// newJudge has no policy, and one image, that asks for raw sockets.
func newJudge(t *testing.T) (*Judge, *running, client.ImageInfo) {
	t.Helper()
	follower, err := host.NewFollower(host.Config{}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	inForce := func() *host.InForce { now, _ := follower.Follow(); return now }
	tasks := &running{}
	lib, err := images.Open(t.TempDir(), images.Host{Log: hclog.NewNullLogger(), InForce: inForce,
		Stores: func() []storage.Driver { return nil }, Tell: func(string, string, string) {}})
	if err != nil {
		t.Fatal(err)
	}
	lib.Tasks = tasks
	l, _, err := ledger.Open(filepath.Join(t.TempDir(), "freejail.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := lib.Close(); err != nil {
			t.Error(err)
		}
	})
	path, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "prog", Cmd: []string{"x"},
		Manifest: `{"schemaVersion":1,"requires":{"allow":["raw_sockets"]}}`})
	if err != nil {
		t.Fatal(err)
	}
	get, err := lib.Importing(client.ImportRequest{Path: path, Name: "prog"})
	if err != nil {
		t.Fatal(err)
	}
	info, err := get(t.Context(), func(client.ImageProgress) {})
	if err != nil {
		t.Fatal(err)
	}
	return &Judge{Ledger: l, Images: lib, Tasks: tasks, Log: hclog.NewNullLogger(),
		InForce: inForce}, tasks, info
}

// What a job may ask for beside its image can be approved, and is told.
func TestApprovalsOfWhatNoImageAsksFor(t *testing.T) {
	j, _, _ := newJudge(t)
	keys := []string{"allow:raw_sockets", "allow:mlock", "allow:brand_new", "mount:nullfs:/srv:ro on /srv",
		"sysvipc:shm=new", "jail:children.max=3"}
	a, err := j.Approve(t.Context(), client.ApproveRequest{Image: "prog", Why: "x", Requests: keys,
		Unknown: []string{"brand_new"}}, "root")
	if err != nil || !slices.Equal(a.Requests, keys) || !slices.Equal(a.Unasked, keys[1:]) {
		t.Errorf("got %+v %v", a, err)
	}
}

// The digest of another image than the named one is not approved: one of the two is a mistake.
func TestApprovalOfAnotherImagesDigest(t *testing.T) {
	j, _, info := newJudge(t)
	path, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "web", Cmd: []string{"y"}})
	if err != nil {
		t.Fatal(err)
	}
	get, err := j.Images.Importing(client.ImportRequest{Path: path, Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	web, err := get(t.Context(), func(client.ImageProgress) {})
	if err != nil {
		t.Fatal(err)
	}
	for name, says := range map[string]string{"web": "web is " + web.Digest, "none": "none is not on this host"} {
		_, err := j.Approve(t.Context(), client.ApproveRequest{Image: name + "@" + info.Digest, Why: "x"}, "root")
		if err == nil || !strings.Contains(err.Error(), says+", and the digest "+info.Digest+" is that of prog") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := j.Ledger.Approvals(); err != nil || len(list) > 0 {
		t.Errorf("approved: %+v, %v", list, err)
	}
	for _, name := range []string{"prog@", "prog:1@", ""} {
		if _, err := j.Approve(t.Context(), client.ApproveRequest{Image: name + info.Digest, Why: "x"}, "root"); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// What is refused is permitted by an approval until it is revoked, which the tasks
// hear that run by it.
func TestAnApprovalAndItsEnd(t *testing.T) {
	j, tasks, info := newJudge(t)
	img, err := j.Images.Get("prog")
	if err != nil {
		t.Fatal(err)
	}
	asked, err := task.Requests(img)
	if err != nil {
		t.Fatal(err)
	}
	decide := func() error { return j.Decide(client.TaskSpec{Image: "prog"}, img, asked) }
	if err := decide(); !client.IsRefused(err) {
		t.Errorf("without an approval: %v", err)
	}
	a, err := j.Approve(t.Context(), client.ApproveRequest{Image: "prog", Why: "seen"}, "root (uid 0)")
	if err != nil || a.Digest != info.Digest || a.By != "root (uid 0)" {
		t.Fatalf("approved: %+v %v", a, err)
	}
	if err := decide(); err != nil {
		t.Errorf("with an approval: %v", err)
	}
	tasks.tasks = []client.Task{{Spec: client.TaskSpec{ID: "one"}, Digest: info.Digest},
		{Spec: client.TaskSpec{ID: "two"}, Digest: "other"}}
	if done, err := j.Revoke("prog", "no longer", "root (uid 0)"); err != nil || len(done) != 1 {
		t.Fatal(err)
	}
	if len(tasks.heard) != 1 || !strings.HasPrefix(tasks.heard[0], "one: the approval "+a.ID) {
		t.Errorf("the tasks hear %q", tasks.heard)
	}
	if err := decide(); !client.IsRefused(err) {
		t.Errorf("after its revocation: %v", err)
	}
	if log, err := j.ApprovalLog(); err != nil || len(log) != 2 || log[1].Why != "no longer" {
		t.Errorf("the log: %+v %v", log, err)
	}
}

func TestApprovalsThatAreNone(t *testing.T) {
	j, _, _ := newJudge(t)
	for want, r := range map[string]client.ApproveRequest{
		"needs a reason": {Image: "prog", Why: " "},
		"in the past":    {Image: "prog", Why: "x", Expires: time.Now().Add(-time.Minute)},
		"nonsense":       {Image: "prog", Why: "x", Requests: []string{"nonsense:x"}},
		"is not on this": {Image: "nothing", Why: "x"},
		`"raw_socket" is not a known jail permission (did you mean raw_sockets?); if a newer kernel or a module has ` +
			"it: --unknown-parameter raw_socket": {Image: "prog", Why: "x", Requests: []string{"allow:raw_socket"}},
		`"childrn.max" is not a known jail parameter`: {Image: "prog", Why: "x", Requests: []string{"jail:childrn.max=1"}},
		`"shared" is neither new nor inherit`:         {Image: "prog", Why: "x", Requests: []string{"sysvipc:shm=shared"}},
		`not "ext4"`:                                  {Image: "prog", Why: "x", Requests: []string{"mount:ext4 on /x"}},
	} {
		_, err := j.Approve(t.Context(), r, "root")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", r, err, want)
		}
	}
	if _, err := j.Revoke("a7", "x", "root"); !client.IsNotFound(err) {
		t.Errorf("an approval that is not there is revoked: %v", err)
	}
	if list, err := j.Approvals(); err != nil || len(list) != 0 {
		t.Errorf("in force: %+v %v", list, err)
	}
}
