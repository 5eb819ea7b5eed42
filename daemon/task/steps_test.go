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
			tk, err := m.newTask(client.TaskSpec{ID: "one", Image: "prog", Storage: "nfs"}, false, func(error) {})
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

// What has ended stays as it was where another one does not start in its place, at each of the steps, and goes where
// it does. Who removes it meanwhile removes both.
func TestStartAgain(t *testing.T) {
	needsNodes(t)
	h := &fakeHost{t: t, dir: t.TempDir(), many: true}
	m := h.manager()
	_, job, err := m.Works.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer job.End()
	spec := client.TaskSpec{ID: "one", Image: "prog"}
	if _, err := m.StartAgain(t.Context(), job, spec); err != nil {
		t.Fatal(err)
	}
	if _, err := m.StartAgain(t.Context(), job, spec); err == nil || !strings.Contains(err.Error(), "has not ended") {
		t.Errorf("in the place of one that runs: %v", err)
	}
	if _, err := m.Stop(t.Context(), "one", client.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	before, err := m.Task("one")
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(h.dir, "tasks", "one", "stdout.log")
	if err := os.WriteFile(log, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, h.fails = range []string{"ruleset", "root", "mounts", "jail", "process"} {
		if _, err := m.StartAgain(t.Context(), job, spec); !errors.Is(err, errFake) {
			t.Errorf("%s: %v", h.fails, err)
		}
		now, err := m.Task("one")
		if err != nil || now.Key != before.Key || now.State != client.Exited || *now.Exit != *before.Exit {
			t.Errorf("%s: %+v %v", h.fails, now, err)
		}
		if text, err := os.ReadFile(log); string(text) != "hello\n" || len(m.Tasks()) != 1 {
			t.Errorf("%s: %q %v, %+v", h.fails, text, err, m.Tasks())
		}
	}
	h.fails = ""
	now, err := m.StartAgain(t.Context(), job, spec)
	if err != nil || len(m.Tasks()) != 1 {
		t.Errorf("%+v %v", m.Tasks(), err)
	}
	if _, err := os.Stat(log); !os.IsNotExist(err) || now.Key == before.Key {
		t.Errorf("of the one before: %v, %+v", err, now)
	}
	if err := m.Destroy(t.Context(), "one", true); err != nil || len(m.Tasks()) != 0 {
		t.Errorf("%+v %v", m.Tasks(), err)
	}
}

// A daemon that ends while a task is started in the place of another one leaves that, whichever of the two is read
// first; and where the new one ran already it is that which stays.
func TestACutOffStartAgain(t *testing.T) {
	for _, c := range []struct{ old, new, state, stays string }{{"one", "one.2", "starting", "one"},
		{"one.2", "one", "starting", "one.2"}, {"one", "one.2", "exited", "one.2"}} {
		h := &fakeHost{t: t, dir: t.TempDir()}
		m := h.manager()
		for key, line := range map[string]string{
			c.old: `{"task":{"spec":{"id":"one"},"key":"` + c.old + `","state":"exited","created_at":"2026-01-01T00:00:00Z"}}`,
			c.new: `{"task":{"spec":{"id":"one"},"key":"` + c.new + `","state":"` + c.state +
				`","created_at":"2026-01-02T00:00:00Z"}}`} {
			dir := filepath.Join(h.dir, "tasks", key)
			err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, journalName), []byte(line+"\n"), 0o600))
			if err != nil {
				t.Fatal(err)
			}
		}
		err := errors.Join(m.Read(t.Context()), m.Recover(context.WithoutCancel(t.Context())))
		for _, left := range m.all() { // is swept up behind the recovery
			left.mu.Lock()
			w := left.sweeping.walk
			left.mu.Unlock()
			if w != nil {
				<-w.done
			}
		}
		if list := m.Tasks(); err != nil || len(list) != 1 || list[0].Key != c.stays || list[0].State != client.Exited {
			t.Errorf("%+v: %+v %v", c, list, err)
		}
	}
}
