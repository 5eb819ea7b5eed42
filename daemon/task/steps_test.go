package task

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/nfsroot"
)

func needsNodes(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("nodes of devices need root")
	}
}

// unwound is what a start asks of its host that fails at one of its steps: all that it
// had begun is taken back, from the newest on, and nothing else.
func unwound(steps []string, fails string) string {
	var done, back []string
	for _, s := range steps {
		done = append(done, "+"+s)
		if s != "process" && s != "mounts" { // which goes with its jail, and is the kernel's
			back = append([]string{"-" + s}, back...)
		}
		if s == fails {
			break
		}
	}
	return strings.Join(append(done, back...), " ")
}

// Wherever a start fails, what it did before is taken back in the order that the
// journal has, which then is gone.
func TestEachStepFails(t *testing.T) {
	needsNodes(t)
	all := []string{"ruleset", "root", "mounts", "jail", "process"}
	for _, fails := range all {
		t.Run(fails, func(t *testing.T) {
			h := &fakeHost{t: t, fails: fails, dir: t.TempDir()}
			m := h.manager()
			_, job, err := m.Works.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer job.End()
			if _, err := m.Start(t.Context(), job, client.TaskSpec{ID: "one", Image: "prog"}); !errors.Is(err,
				errFake) {
				t.Errorf("the start: %v", err)
			}
			h.gone(m, unwound(all, fails))
		})
	}
}

// gone wants calls to have been made, and nothing of a task to be left.
func (h *fakeHost) gone(m *Manager, calls string) {
	h.t.Helper()
	if got := oneOf(h.asked()); got != calls {
		h.t.Errorf("asked\n%s, want\n%s", got, calls)
	}
	if n, _ := m.Count(); n != 0 || len(m.Tasks()) != 0 {
		h.t.Errorf("tasks: %+v", m.Tasks())
	}
	left, err := filepath.Glob(filepath.Join(h.dir, "tasks", "*"))
	if err != nil || len(left) > 0 {
		h.t.Errorf("left: %v %v", left, err)
	}
}

// oneOf has each of several mounts once.
func oneOf(calls string) string {
	return strings.ReplaceAll(calls, "+mounts +mounts", "+mounts")
}

// A root over NFS has one step more, before the root itself.
func TestEachStepOverNFSFails(t *testing.T) {
	needsNodes(t)
	all := []string{"ruleset", "nfs", "root", "mounts", "jail", "process"}
	for _, fails := range all {
		t.Run(fails, func(t *testing.T) {
			h := &fakeHost{t: t, fails: fails, dir: t.TempDir()}
			m := h.manager()
			tk, err := m.newTask(client.TaskSpec{ID: "one", Image: "prog", Storage: "nfs"}, func(error) {})
			if err != nil {
				t.Fatal(err)
			}
			tk.root.(*remoteRoot).src = &nfsroot.Source{} // as find has it
			p, err := m.permitted(t.Context(), tk, fakeImage)
			if err != nil {
				t.Fatal(err)
			}
			store, err := m.Stores("nfs")
			if err != nil {
				t.Fatal(err)
			}
			err = (&start{m: m, t: tk, plan: p, store: store}).run(t.Context())
			if err = m.failed(t.Context(), tk, err); !errors.Is(err, errFake) {
				t.Errorf("the start: %v", err)
			}
			h.gone(m, unwound(all, fails))
		})
	}
}

// A whole life: all steps, and all of them back when its process has ended.
func TestStartAndEnd(t *testing.T) {
	needsNodes(t)
	h := &fakeHost{t: t, dir: t.TempDir()}
	m := h.manager()
	_, job, err := m.Works.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Start(t.Context(), job, client.TaskSpec{ID: "one", Image: "prog"}); err != nil {
		t.Fatal(err)
	}
	job.End()
	if e, err := m.Stop(t.Context(), "one", client.StopRequest{}); err != nil || e.Signal != 9 {
		t.Errorf("the end: %+v %v", e, err)
	}
	if err := m.Destroy(t.Context(), "one", false); err != nil {
		t.Fatal(err)
	}
	h.gone(m, "+ruleset +root +mounts +jail +process +service -service -service -jail -root -ruleset")
}

// What the journal of a start that was cut off names is taken back by a daemon that
// did none of it, in the words of the versions before.
func TestJournalOfACutOffStart(t *testing.T) {
	h := &fakeHost{t: t, dir: t.TempDir()}
	m := h.manager()
	dir := filepath.Join(h.dir, "tasks", "one")
	lines := `{"task":{"spec":{"id":"one","image":"prog"},"state":"starting","jail":"fj-one"}}` + "\n"
	for _, u := range []string{`"ruleset"`, `"nfs"`, `"root","arg":"nfs"`, `"mounts","arg":"` + h.dir + `/root"`,
		`"jail","arg":"fj-one"`, `"service"`} {
		lines += `{"undo":{"op":` + u + "}}\n"
	}
	err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, journalName), []byte(lines), 0o600))
	if err = errors.Join(err, m.Read(t.Context()), m.Recover(context.WithoutCancel(t.Context()))); err != nil {
		t.Fatal(err)
	}
	h.gone(m, "=rulesets -service -jail -root -nfs -ruleset")
}
