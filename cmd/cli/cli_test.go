package cli

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/cmd/internal/app"
	"github.com/freejail/freejail/daemon/client"
)

func TestNoDaemon(t *testing.T) {
	h := away(t)
	for _, args := range [][]string{{"ps"}, {"run", "x"}, {"exec", "x", "y"}, {"stop", "x"}, {"images"}, {"gc"},
		{"policy", "list"}, {"policy", "log"}, {"metrics"}, {"devfs", "list"}, {"events"}, {"daemon", "--upgrade"}} {
		h.gives(exitNoDaemon, []string{"no freejail daemon answers", h.socket}, args...)
	}
	h.gives(exitNoDaemon, []string{"error    daemon", h.socket, "->"}, "doctor")
	r := h.freejail("--json", "doctor")
	var checks []client.Check
	if err := json.Unmarshal([]byte(r.out), &checks); err != nil || r.code != exitNoDaemon || len(checks) < 4 ||
		checks[0].Status != "error" || checks[0].Fix == "" {
		t.Errorf("doctor --json: %d %v %+v", r.code, err, checks)
	}
	for _, arg := range []string{"version", "--version", "-v"} {
		h.gives(0, []string{"freejail 1.2.3\n"}, arg)
		if v := decoded[map[string]string](h, arg); v["version"] != "1.2.3" {
			t.Errorf("--json %s: %v", arg, v)
		}
	}
}

// Why a daemon cannot be asked is told apart, with what to do.
func TestSocketsThatDoNotAnswer(t *testing.T) {
	h := away(t)
	h.gives(exitNoDaemon, []string{"no freejail daemon answers", "there is no such socket", "freejail daemon"}, "ps")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.socket, Net: "unix"})
	check(t, err)
	l.SetUnlinkOnClose(false)
	check(t, l.Close())
	h.gives(exitNoDaemon, []string{"no freejail daemon answers", "its daemon has ended"}, "ps")
	if os.Geteuid() != 0 {
		t.Skip("root alone can be another user")
	}
	check(t, os.Chmod(h.dir, 0o755))
	cmd := h.command("ps")
	prog := h.path("freejail")
	b, err := os.ReadFile(self(t))
	check(t, err)
	check(t, os.WriteFile(prog, b, 0o755))
	cmd.Path, cmd.SysProcAttr = prog, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != exitRefused || !strings.Contains(string(out), "permission denied") ||
		!strings.Contains(string(out), "socket_group") || strings.Contains(string(out), "no freejail daemon") {
		t.Errorf("another user: %v: %s", err, out)
	}
}

// Flags that cannot be read are told in the words of the field.
func TestFaultyFlags(t *testing.T) {
	var d *time.Duration
	for _, text := range []string{"5x", "soon", ""} {
		if err := duration(&d)(text); err == nil || err.Error() != "not a valid duration (for example 90s)" {
			t.Errorf("%q: %v", text, err)
		}
	}
	c := (&commands{}).gcCmd()
	if err := c.ParseFlags([]string{"--max-size", "big"}); err == nil ||
		!strings.Contains(err.Error(), "not a valid size (for example 20GiB)") {
		t.Errorf("--max-size big: %v", err)
	}
}

func TestUsageErrors(t *testing.T) {
	h := away(t)
	for _, args := range [][]string{{"no-such-command"}, {"ps", "extra"}, {"ps", "--no-such-flag"}, {"stop"}, {"run"},
		{"exec", "x"}, {"policy", "nothing"},
		{"policy", "check"}, {"logs", "-n", "many", "x"}, {"run", "--env", "=novalue", "x"},
		{"run", "--port", "http=high", "x"},
		{"run", "--volume", "/only", "x"}, {"run", "--memory", "much", "x"}, {"exec", "--env", "no name=x", "x", "y"}} {
		r := h.freejail(args...)
		if r.code != app.Usage || !strings.HasPrefix(r.errout, "freejail: ") {
			t.Errorf("freejail %s: exit code %d, want %d: %s", strings.Join(args, " "), r.code, app.Usage, r.errout)
		}
	}
}

func TestDaemonCheck(t *testing.T) {
	h := away(t)
	for text, want := range map[string]string{
		"permit {\n  ports = [\"high\"]\n}\n": "freejail.hcl:2",
		"state_dir = \"relative\"\n":          "state_dir",
		"no_such_setting = 1\n":               "no_such_setting",
		"devfs {\n  open = [\"path x\"]\n}\n": "open[0]",
		"storage {\n":                         "/freejail.hcl: freejail.hcl:",
		"socket_group = \"no-such-group\"\n":  `socket_group: no such group on this host: "no-such-group"`,
	} {
		check(t, os.WriteFile(h.path("freejail.hcl"), []byte(text), 0o600))
		h.gives(app.Failed, []string{want}, "daemon", "--check", "--config", h.path("freejail.hcl"))
	}
	check(t, os.WriteFile(h.path("freejail.hcl"), []byte("permit {\n  ports = [\"80\"]\n}\n"), 0o600))
	h.gives(0, nil, "daemon", "--check", "--config", h.path("freejail.hcl"))
	check(t, os.WriteFile(h.path("freejail.hcl"), []byte("\npermit {\n  networks = [\"nope\"]\n}\n"), 0o600))
	r := h.freejail("daemon", "--check", "--config", h.path("freejail.hcl"))
	if want := "freejail.hcl:3: network \"nope\": no network of this name"; r.code != 0 || !strings.Contains(r.errout, want) {
		t.Errorf("%+v, want %q", r, want)
	}
	h.gives(app.Failed, []string{"nothere.hcl"}, "daemon", "--config", h.path("nothere.hcl"))
}

func TestRunGivesTheProgramsEnd(t *testing.T) {
	h := newHost(t, "")
	r := h.freejail("run", "--rm", "prog", "say", "a", "b c")
	// Before it are lines of progress on a slow host.
	if r.code != 0 || r.out != "a b c\n" || !strings.HasSuffix(r.errout, "to standard error\n") {
		t.Errorf("run: %+v", r)
	}
	h.gives(7, nil, "run", "--rm", "prog", "exit", "7")
	h.gives(exitUnknown, []string{"not on this host", "images import"}, "run", "nothere")
	h.gives(127, []string{"no such program"}, "run", "--entrypoint", "/nothere", "prog")
	h.gives(exitUnknown, []string{"has no parameter"}, "run", "--param", "OTHER=x", "prog")
	if list := decoded[[]client.Task](h, "ps", "--all"); len(list) != 0 {
		t.Errorf("left: %+v", list)
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		exit *client.Exit
		want int
	}{{&client.Exit{Known: true, Code: 7}, 7}, {&client.Exit{Known: true, Signal: 9}, 128 + 9},
		{&client.Exit{Code: 1}, exitUnknown}, {nil, exitUnknown}} {
		if got, ok := exitOf(c.exit).(app.ExitCode); !ok || int(got) != c.want {
			t.Errorf("%+v: %d, want %d", c.exit, got, c.want)
		}
	}
	if err := exitOf(&client.Exit{Known: true}); err != nil {
		t.Errorf("code 0: %v", err)
	}
}

func TestDiskLimit(t *testing.T) {
	h := newHost(t, "")
	h.gives(128+int(syscall.SIGKILL), []string{"killed: over its disk limit of 16MiB"}, "run", "--name", "clifull",
		"--disk", "16MiB", "--param", "GREETING=x", "prog", "fill")
	h.gives(0, []string{"clifull", "exited (137)"}, "ps", "-a")
	h.gives(0, []string{"killed: over its disk limit of 16MiB"}, "events")
	h.gives(0, []string{`"disk_bytes": 16777216`, `"written": `}, "inspect", "clifull")
	h.gives(app.Usage, []string{`"--disk"`, `"much"`, "256MiB"}, "run", "--disk", "much", "prog")
	h.gives(app.Usage, []string{`"--disk"`, `"0"`, "256MiB"}, "run", "--disk", "0", "prog")
}

func TestTask(t *testing.T) {
	h := newHost(t, "")
	h.gives(0, []string{"clitask\n"}, "run", "-d", "--name", "clitask", "--param", "GREETING=world", "prog")
	for deadline := time.Now().Add(time.Minute); h.freejail("logs", "clitask").out == "" &&
		time.Now().Before(deadline); {
	}
	h.gives(0, []string{"greeting world\n"}, "logs", "clitask")
	h.gives(0, []string{"TASK", "clitask", "running"}, "ps")
	list := decoded[[]client.Task](h, "ps")
	if len(list) != 1 || list[0].Spec.ID != "clitask" || list[0].PID == 0 || list[0].State != client.Running {
		t.Errorf("ps: %+v", list)
	}
	h.gives(exitUnknown, []string{"already", "freejail rm clitask"}, "run", "-d", "--name", "clitask", "prog")
	h.gives(app.Failed, []string{"still runs", "freejail rm -f clitask"}, "rm", "clitask")
	h.gives(exitUnknown, []string{"64 bytes", "4MiB", "64MiB"}, "run", "-m", "64", "prog")
	h.gives(app.Failed, []string{"64 bytes", "4MiB", "64MiB"}, "policy", "check", "-m", "64", "prog")

	h.gives(4, nil, "exec", "clitask", "/bin/prog", "inside", "exit", "4")
	if r := h.fed("through\n", "exec", "clitask", "/bin/prog", "inside", "cat"); r.code != 0 || r.out != "through\n" {
		t.Errorf("exec with input: %+v", r)
	}
	h.gives(exitUnknown, []string{"nobody"}, "exec", "nobody", "/bin/prog")

	// The log is moved, and goes on in a new file.
	info, err := client.New(h.socket).Info(t.Context())
	check(t, err)
	before := h.read("log")
	check(t, os.Rename(h.path("log"), h.path("log.0")))
	check(t, syscall.Kill(info.PID, syscall.SIGUSR1))
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(h.path("log")); err == nil {
			break
		}
	}

	// It goes on as it is where its new binary would not start.
	h.gives(app.Failed, []string{"no upgrade", "not a freejail binary that runs on this host\n"}, "daemon", "--upgrade",
		"--binary", "/usr/bin/true")
	check(t, os.WriteFile(h.path("old"), []byte("#!/bin/sh\ntest $1 = version && echo freejail old && exit\necho no "+
		"flag $4; exit 2\n"), 0o700))
	h.gives(app.Failed, []string{"no upgrade", "no flag --log-file"}, "daemon", "--upgrade", "--binary", h.path("old"))
	conf := h.read("freejail.hcl")
	check(t, os.WriteFile(h.path("freejail.hcl"), []byte(conf+"\nlimits {\n  log_size = \"much\"\n}\n"), 0o600))
	h.gives(app.Failed, []string{"no upgrade", "log_size"}, "daemon", "--upgrade")
	check(t, os.WriteFile(h.path("freejail.hcl"), []byte(conf+"\nstorage {\n  driver = \"btrfs\"\n}\n"), 0o600))
	h.gives(app.Failed, []string{"no upgrade", `driver "btrfs" is not supported on this system`}, "daemon", "--upgrade")
	check(t, os.WriteFile(h.path("freejail.hcl"), []byte(conf), 0o600))

	check(t, os.WriteFile(h.path("freejail.hcl"), []byte(strings.Replace(conf, "/state\"", "/other\"", 1)), 0o600))
	h.gives(app.Failed, []string{"no upgrade", "state_dir is " + h.path("other") + " now"}, "daemon", "--upgrade")
	check(t, os.WriteFile(h.path("freejail.hcl"), []byte(conf), 0o600))

	// Nothing that is said to it is passed over in silence.
	h.gives(app.Failed, []string{"no upgrade: --config /nothere.hcl: the running daemon has " + h.path("freejail.hcl")},
		"daemon", "--upgrade", "--config", "/nothere.hcl")
	h.gives(app.Failed, []string{"no upgrade: --state-dir /nothere: the running daemon has " + h.path("state")},
		"daemon", "--upgrade", "--config", h.path("freejail.hcl"), "--state-dir", "/nothere")
	h.gives(app.Usage, []string{"begins with a check"}, "daemon", "--upgrade", "--check")
	h.gives(app.Usage, []string{"keeps the log"}, "daemon", "--upgrade", "--log-file", h.path("log"))
	h.gives(app.Usage, []string{"--binary is for --upgrade"}, "daemon", "--check", "--binary", "/usr/bin/true")
	h.gives(0, nil, "daemon", "--upgrade", "--config", h.path("freejail.hcl"), "--state-dir", h.path("state"))

	// The daemon takes its new binary; the task does not notice.
	h.gives(0, []string{"version 1.2.3"}, "daemon", "--upgrade")
	for _, line := range []string{"upgrading in place", "freejail daemon: version=1.2.3"} {
		if log := h.read("log"); !strings.Contains(log, line) {
			t.Errorf("no %q in the new log:\n%s", line, log)
		}
	}
	if old := h.read("log.0"); before == "" || old != before {
		t.Errorf("the moved log changed from\n%s\nto\n%s", before, old)
	}
	if again := decoded[client.Task](h, "inspect", "clitask"); again.PID != list[0].PID ||
		again.State != client.Running {
		t.Errorf("after the upgrade: %+v", again)
	}

	h.gives(0, nil, "stop", "clitask")
	if e := h.awaitState("clitask", client.Exited).Exit; e == nil || e.Code != 3 || !e.Known {
		t.Errorf("exit: %+v", e)
	}
	h.gives(0, []string{"bye\n"}, "logs", "-n", "1", "clitask")
	if out := h.gives(0, nil, "ps"); strings.Contains(out, "clitask") {
		t.Errorf("ps shows an ended task:\n%s", out)
	}
	h.gives(0, []string{"exited (3)"}, "ps", "-a")
	h.gives(0, []string{"clitask", "exited", "exit code 3"}, "events")
	h.gives(0, nil, "rm", "clitask")
	h.gives(app.Failed, []string{"clitask"}, "inspect", "clitask")
}

// What a user of other container tools types next.
func TestFamiliarWords(t *testing.T) {
	h := newHost(t, "")
	digest := decoded[client.ImageInfo](h, "images", "prog").Digest
	hex := strings.TrimPrefix(digest, "sha256:")
	h.gives(0, []string{digest + "\n"}, "images", "-q")
	for _, short := range []string{hex[:12], hex[:6], hex} {
		if one := decoded[client.ImageInfo](h, "images", short); one.Digest != digest {
			t.Errorf("%s is %+v", short, one)
		}
		h.gives(5, nil, "run", "--rm", short, "exit", "5")
	}
	h.gives(app.Failed, []string{"ffffffffffff"}, "images", "ffffffffffff")
	h.gives(exitUnknown, []string{"not on this host"}, "run", "--pull", "never", "--rm", "127.0.0.1:1/no/image")
	for _, pull := range []string{"--pull=missing", "--pull=never"} {
		h.gives(5, nil, "run", pull, "--rm", "prog", "exit", "5")
	}
	h.gives(app.Usage, []string{"always, missing or never"}, "run", "--pull=often", "prog")
	h.gives(app.Failed, []string{"did you mean freejail images import?"}, "images", "improt")
	h.gives(app.Failed, []string{"not on this host", "(freejail images lists them)"}, "images", "ls")
	h.gives(app.Usage, []string{"-p [ADDRESS:]PORT"}, "run", "-P", "prog")
	h.gives(app.Usage, []string{`share = "group"`}, "run", "--network", "container:web", "prog")
	h.gives(app.Usage, []string{"did you mean --detach?"}, "run", "--detatch", "prog")
	h.gives(app.Failed, []string{"`freejail images prog` describes the image"}, "inspect", "prog")
	h.gives(app.Usage, []string{"flag: not a number;"}, "logs", "-n", "x", "prog")
	h.gives(exitUnknown, []string{`(there is "prog")`}, "run", "--pull=never", "prog:2")
	h.gives(app.Usage, []string{"freejail restart"}, "start", "x")
	h.gives(app.Usage, []string{`unknown command "nonsense"`}, "help", "nonsense")
	h.gives(app.Usage, []string{"did you mean images?"}, "help", "imges")
	h.gives(0, nil, "run", "-d", "--name", "one", "prog", "wait")
	h.gives(0, nil, "run", "-d", "--name", "two", "prog", "wait")
	if out := h.gives(0, nil, "ps", "-q"); out != "one\ntwo\n" {
		t.Errorf("ps -q: %q", out)
	}
	h.gives(0, []string{"PID", "COMMAND"}, "top", "one")
	if out := h.gives(0, nil, "inspect", "-f", "{{.id}} {{.state}} {{.spec.image}}", "one"); out != "one running prog\n" {
		t.Errorf("inspect -f: %q", out)
	}
	if out := h.gives(0, nil, "inspect", "-f", `{{json .spec.command}} {{json .network}} {{with .exit}}{{.code}}{{end}}`,
		"one"); out != "\"wait\" null \n" {
		t.Errorf("inspect -f json: %q", out)
	}
	h.gives(app.Usage, []string{`function "nonsense" not defined`, "are json and"}, "inspect", "-f", "{{nonsense .state}}", "one")
	h.gives(app.Failed, []string{"--format", `"Network"`, "keys are those of the JSON"}, "inspect", "-f", "{{json .Network}}",
		"one")
	for _, c := range []struct {
		want string
		args []string
	}{{"one\n", []string{"--filter", "name=on"}}, {"one\ntwo\n", []string{"--filter", "network=host"}},
		{"", []string{"--filter", "network=none"}}, {"", []string{"--filter", "status=exited"}},
		{"one\ntwo\n", []string{"--filter", "status=running", "--filter", "image=prog"}},
		{"", []string{"--filter", "label=job"}}} {
		if out := h.gives(0, nil, append([]string{"ps", "-q"}, c.args...)...); out != c.want {
			t.Errorf("ps %q: %q", c.args, out)
		}
	}
	if out := h.gives(0, nil, "ps", "--format", "{{.id}} {{.state}}"); out != "one running\ntwo running\n" {
		t.Errorf("ps --format: %q", out)
	}
	h.gives(app.Usage, []string{"expected image=, label=, name=, network= or status="}, "ps", "--filter", "ancestor=prog")
	h.gives(app.Usage, []string{`no status "dead"`, "running"}, "ps", "--filter", "status=dead")
	h.gives(app.Failed, []string{"--format", "nothing"}, "inspect", "-f", "{{.nothing}}", "one")
	h.gives(app.Usage, []string{"--format"}, "inspect", "-f", "{{", "one")
	h.gives(0, []string{"CPU %", "one"}, "stats", "--no-stream", "one")
	h.gives(app.Failed, []string{"task three is not running"}, "stats", "--no-stream", "three")
	if s := decoded[statsLine](h, "stats", "--no-stream", "two"); s.Task != "two" || s.RSS == 0 {
		t.Errorf("stats: %+v", s)
	}
	h.gives(0, nil, "stop", "-t", "30", "one")
	if out := h.gives(0, nil, "wait", "one"); out != "3\n" {
		t.Errorf("wait: %q", out)
	}
	h.gives(0, nil, "kill", "two")
	if e := decoded[client.Exit](h, "wait", "two"); e.Signal != 9 {
		t.Errorf("wait: %+v", e)
	}
	ids := strings.Fields(h.gives(0, nil, "ps", "-aq"))
	h.gives(0, nil, append([]string{"rm", "-f"}, ids...)...)
	for line := range strings.Lines(h.freejail("events", "--json").out) {
		var e client.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Kind == "" {
			t.Errorf("an event is not a line: %q %v", line, err)
		}
	}
}

// The image says how it is to be stopped, and how long that may take.
func TestStopAsTheImageSays(t *testing.T) {
	h := newHost(t, "")
	h.gives(0, nil, "images", "import", h.image("stubborn", "STOPSIGNAL SIGUSR1 timeout=100ms\nCMD [\"stubborn\"]\n"))
	h.gives(0, nil, "run", "-d", "--name", "clitask", "stubborn")
	for deadline := time.Now().Add(time.Minute); h.freejail("logs", "clitask").out == "" &&
		time.Now().Before(deadline); {
	}
	h.gives(0, nil, "kill", "-s", "term", "clitask")
	for deadline := time.Now().Add(time.Minute); !strings.Contains(h.freejail("logs", "clitask").out, "terminated") &&
		time.Now().Before(deadline); {
	}
	h.gives(app.Failed, []string{"no such signal"}, "kill", "-s", "SIGFOO", "clitask")
	h.gives(app.Failed, []string{"no such signal"}, "stop", "-s", "RTMIN-1", "clitask")
	h.gives(0, nil, "stop", "clitask")
	h.gives(0, []string{"terminated\nuser defined signal 1\n"}, "logs", "clitask")
	h.gives(0, []string{"100ms after SIGUSR1: killed"}, "events")
	h.gives(0, nil, "rm", "clitask")
}

func TestImages(t *testing.T) {
	h := newHost(t, "")
	h.gives(0, []string{"NAME", "prog", "for tests"}, "images")
	h.gives(0, []string{"Parameters:", `GREETING (default "hello"): a word`}, "images", "prog")
	list := decoded[[]client.ImageInfo](h, "images")
	if len(list) != 1 || list[0].Summary != "for tests" {
		t.Fatalf("images: %+v", list)
	}
	if one := decoded[client.ImageInfo](h, "images", list[0].Digest); one.Name != "prog" {
		t.Errorf("by its digest: %+v", one)
	}
	h.gives(0, []string{"mine sha256:"}, "images", "import", "--name", "mine", h.image("prog", ""))
	h.gives(app.Failed, []string{"nothere.tar"}, "images", "import", h.path("nothere.tar"))
	other := h.image("shop", "")
	if err := os.Rename(other, other+"2.tar"); err != nil {
		t.Fatal(err)
	}
	said := h.freejail("images", "import", "docker-archive:"+other+"2.tar")
	if said.code != 0 || !strings.Contains(said.errout, "the archive names it shop: --name shop gives it that name") {
		t.Errorf("%+v", said)
	}
	h.gives(0, nil, "images", "rm", "mine")
	h.gives(app.Failed, []string{"mine"}, "images", "rm", "mine")
	h.gives(0, []string{"0 ended tasks"}, "gc")
	h.gives(0, []string{"0 ended tasks"}, "gc", "--older", "1h", "--max-size", "1KiB")
	h.gives(0, []string{"prog"}, "images", "prog") // someone has named it
	h.gives(app.Usage, []string{`invalid argument "much" for "--max-size" flag`}, "gc", "--max-size", "much")
	h.gives(app.Failed, []string{"nothere"}, "images", "nothere")
}

func TestPolicy(t *testing.T) {
	h := newHost(t, "permit {\n  allow = [\"chflags\"]\n}\n")
	h.gives(0, []string{"greedy sha256:"}, "images", "import",
		h.image("greedy", "ALLOW raw_sockets chflags\nSYSVIPC shm=new\n"))
	refused := h.gives(exitRefused, []string{"refused", "allow.raw_sockets", "sysvipc shm=new", "no permit covers it",
		"allowed", "allow.chflags", "freejail.hcl:3",
		`images = ["greedy"]`, `sysvipc = ["shm=new"]`, "--request allow:raw_sockets --request sysvipc:shm=new"},
		"policy", "check", "greedy")
	if strings.Contains(refused, "usage") {
		t.Errorf("check prints its usage:\n%s", refused)
	}
	h.gives(exitRefused, []string{"the host's policy refuses", "freejail policy approve greedy@sha256:",
		"A permit block in " + h.path("freejail.hcl") + " permits it for good"}, "run", "greedy", "exit", "0")
	h.gives(app.Usage, []string{"--reason"}, "policy", "approve", "greedy")
	h.gives(app.Failed, []string{"kind:what"}, "policy", "approve", "--reason", "x", "--request", "nonsense", "greedy")
	h.gives(app.Usage, []string{"--expires"}, "policy", "approve", "--reason", "x", "--expires", "soon", "greedy")
	digest := decoded[client.ImageInfo](h, "images", "greedy").Digest
	h.gives(app.Failed, []string{"not on this host"}, "policy", "approve", "--reason", "x", "greedy@"+
		digest[:len(digest)-4]+"0000")
	h.gives(0, []string{"approved for sha256:", "allow:raw_sockets"}, "policy", "approve", "--reason", "a test",
		"--request", "allow:raw_sockets", "greedy@"+digest)
	h.gives(exitRefused, []string{"sysvipc shm=new"}, "run", "greedy", "exit", "0")
	h.gives(0, []string{"sysvipc:shm=new", "until"}, "policy", "approve", "--reason", "more of it", "--expires", "1d",
		"greedy")
	h.gives(0, []string{"REASON", "a test", "greedy", "uid "}, "policy", "list")
	list := decoded[[]client.Approval](h, "policy", "list")
	if len(list) != 2 || list[0].Why != "a test" || !slices.Equal(list[0].Requests, []string{"allow:raw_sockets"}) ||
		!strings.Contains(list[0].By, "uid ") {
		t.Errorf("approvals: %+v", list)
	}
	h.gives(0, nil, "run", "--rm", "greedy", "exit", "0")
	h.gives(exitRefused, []string{"asked for by the command line", "--request allow:mount"}, "run", "--allow", "mount", "greedy",
		"exit", "0")
	h.gives(0, []string{`freejail_policy_decisions_total{result="refused"}`,
		`freejail_policy_refused_requests_total{denied="false",kind="allow",source="job"} 1`,
		"freejail_policy_approvals 2"}, "metrics")

	// One that runs is told of a revocation, and runs on; it starts no more.
	h.gives(0, nil, "run", "-d", "--name", "clitask", "greedy")
	h.gives(0, nil, "policy", "revoke", "--reason", "no more", list[1].ID)
	h.gives(0, []string{"clitask", "was revoked by"}, "events")
	h.gives(0, []string{"a1: revoked for " + digest, "allow:raw_sockets"}, "policy", "revoke", "greedy@"+digest)
	h.gives(app.Failed, []string{"no approval"}, "policy", "revoke", "greedy")
	if task := decoded[client.Task](h, "inspect", "clitask"); task.State != client.Running {
		t.Errorf("the task is %s", task.State)
	}
	h.gives(0, nil, "rm", "--force", "clitask")
	h.gives(exitRefused, nil, "run", "greedy", "exit", "0")
	h.gives(0, []string{"approve a1", "approve a2", "revoke a2", "no more", "revoke a1"}, "policy", "log")

	// What is not followed is told, until an upgrade takes it.
	check(t, os.WriteFile(h.path("freejail.hcl"), fmt.Appendf(nil, "state_dir = %q\nsocket = \"/other\"\n"+
		"limits {\n  log_size = \"1MiB\"\n}\npermit {\n  allow = [\"chflags\"]\n}\n", h.path("state")), 0o600))
	h.gives(0, []string{"are in force\n", "not in force yet: limits: `freejail daemon --upgrade`\n",
		"before the daemon is stopped and started: socket\n"}, "policy", "reload")
	if r := decoded[reloaded](h, "policy", "reload"); !slices.Equal(r.Waiting, []string{"limits", "socket"}) {
		t.Errorf("%+v", r)
	}
	h.gives(0, []string{"warning  configuration", "does not know of it yet: limits\n"}, "doctor")
	h.gives(0, nil, "daemon", "--upgrade")
	if r := h.freejail("policy", "reload"); r.code != 0 || strings.Contains(r.out, "limits") {
		t.Errorf("after an upgrade: %+v", r)
	}

	// A faulty file is told and leaves the policy in force.
	check(t, os.WriteFile(h.path("freejail.hcl"), []byte("permit {\n"), 0o600))
	h.gives(app.Failed, []string{"freejail.hcl"}, "policy", "reload")
	h.gives(app.Failed, []string{"error    policy"}, "doctor")
	h.gives(exitRefused, []string{"allowed", "allow.chflags"}, "policy", "check", "greedy")
}

func TestDoctorAndDevfs(t *testing.T) {
	h := newHost(t, "")
	h.gives(0, []string{"ok       daemon", "ok       storage", "warning  consul", "ok       policy"}, "doctor")
	for _, c := range decoded[[]client.Check](h, "doctor") {
		if c.Status != "ok" && c.Fix == "" {
			t.Errorf("no remedy: %+v", c)
		}
	}
	h.gives(0, nil, "run", "-d", "--name", "clitask", "prog")
	h.gives(0, []string{"held by clitask", "path null unhide"}, "devfs", "list")
	h.gives(0, []string{"held by clitask", "path null unhide"}, "devfs", "show", "clitask")
	h.gives(app.Failed, []string{"nobody"}, "devfs", "show", "nobody")
	if out := h.gives(0, []string{"visible  null", "open"}, "devfs", "explain", "prog"); strings.Contains(out,
		"hidden") {
		t.Errorf("hidden nodes are listed:\n%s", out)
	}
	if l := decoded[[]client.Ruleset](h, "devfs", "list"); len(l) != 1 || len(l[0].Rules) == 0 {
		t.Errorf("devfs: %+v", l)
	}
	h.gives(0, nil, "rm", "--force", "clitask")
}

// What needs neither a daemon nor root.
func TestPolicyOffline(t *testing.T) {
	h := away(t)
	path := h.image("greedy", "ALLOW raw_sockets\nSYSVIPC shm=new\n")
	conf := h.path("freejail.hcl")
	write := func(text string) { check(t, os.WriteFile(conf, []byte(text), 0o600)) }
	write("permit {\n  sets = [\"network-tools\"]\n}\ntest \"ping\" {\n  allowed {\n    allow = [\"raw_sockets\"]\n  " +
		"}\n  refused {\n    ports = [\"80\"]\n  }\n}\n")
	h.gives(exitRefused, []string{"allowed  allow.raw_sockets", "freejail.hcl:2 (set network-tools)",
		"refused  sysvipc shm=new"}, "policy", "check", path, "-policy", conf)
	h.gives(exitRefused, []string{"refused  allow.raw_sockets"}, "policy", "check", path, "--policy=")
	h.gives(0, []string{"2 of 2 assertions hold"}, "policy", "test", conf)
	r := h.freejail("--json", "policy", "check", path, "--policy", conf)
	var d client.Decision
	if err := json.Unmarshal([]byte(r.out), &d); err != nil || r.code != exitRefused || d.Allowed ||
		len(d.Results) != 2 || d.Results[1].Permit == "" || d.Results[1].Key != "sysvipc:shm=new" {
		t.Errorf("check --json: %d %v %+v", r.code, err, d)
	}
	write("permit {\n  sysvipc = [\"shm\"]\n}\ntest \"no more\" {\n  refused {\n    sysvipc = [\"shm=new\"]\n  }\n}\n")
	h.gives(app.Failed, []string{"freejail.hcl:6", `test "no more"`, "0 of 1"}, "policy", "test", conf)
	write("permit {}\n")
	h.gives(app.Failed, []string{"nothing was tested"}, "policy", "test", conf)
	write("permit {\n  prots = [\"80\"]\n}\n")
	h.gives(app.Failed, []string{"freejail.hcl:2", "prots", "ports"}, "policy", "check", path, "--policy", conf)
	h.gives(0, []string{"standard", "network-tools"}, "policy", "sets")
	h.gives(0, []string{"set \"linux\"", "linprocfs"}, "policy", "sets", "linux")
	h.gives(app.Failed, []string{"network-tools"}, "policy", "sets", "nothing")
}
