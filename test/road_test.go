// Package test has the tests from end to end: a real Nomad agent, a real
// Consul agent, the plugin and the daemon that it starts, and jails.
package test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

const manifest = `{"schemaVersion":1,"name":"probe",
 "parameters":[{"name":"GREETING","required":true,"description":"whom the page greets"}],
 "ports":[{"name":"http","port":8099,"service":{"name":"probe","tags":["test"],"check":{"type":"http","path":"/health","interval":"1s","timeout":"5s"}}}]}`

var probeImage = testimage.Spec{Manifest: manifest, Files: map[string]string{
	"/etc/passwd": "root:*:0:0:root:/:/bin/sh\nweb:*:1080:1081:web:/var:/bin/sh\n",
	"/etc/group":  "wheel:*:0:root\nweb:*:1081:\n"}}

// TestRoad has one cluster for all of its parts, and compares the host after
// each of them and at the end.
func TestRoad(t *testing.T) {
	before := lookAtHost(t)
	var dir string
	t.Run("cluster", func(t *testing.T) {
		c := startCluster(t)
		dir = c.dir
		c.imports(t, "probe", probeImage)
		for _, part := range parts {
			t.Run(part.name, func(t *testing.T) { part.run(t, c) })
			t.Run(part.name+" leaves nothing", c.idle)
		}
	})
	if dir == "" {
		return // skipped
	}
	before.same(t, lookAtHost(t))
	if left := processes(t, dir); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
}

var parts = []struct {
	name string
	run  func(*testing.T, *cluster)
}{
	{"serves and is found in Consul", servesAndIsFound},
	{"first job", firstJobs},
	{"ports of a job", portsAreSaid},
	{"deployments", deployments},
	{"delivery", deliveries},
	{"exit codes", exitCodes},
	{"environment", environment},
	{"names of hosts", names},
	{"user", user},
	{"template and secrets", templateAndSecrets},
	{"exec", execs},
	{"exec in a terminal", execsInTerminal},
	{"signal", signalled},
	{"stop by another signal", killSignal},
	{"stop of a stubborn task", stubborn},
	{"restart policy", restarts},
	{"memory limit", memoryLimit},
	{"disk limit", diskLimit},
	{"stats", stats},
	{"cores of others", coresOfOthers},
	{"twenty at once", twenty},
	{"refusals", refusals},
	{"image of Linux", linuxImage},
	{"image from a registry", fromRegistry},
	{"signed images", signedImages},
	{"policy and approvals", decidesAndApproves},
	{"images that ask for much", imagesAsk},
	{"network stack of its own", aStackOfItsOwn},
	{"modules that are to be loaded", modulesAreAskedFor},
	{"users that are denied", usersAreDenied},
	{"plugin killed", pluginKilled},
	{"daemon upgraded", daemonUpgraded},
	{"daemon killed", daemonKilled},
	{"daemon that cannot start", unhealthyAndBack},
	{"agent restarted", agentRestarted},
	{"host shut down", hostShutDown},
	{"host shut down beside its agent", hostShutDownBesideAgent},
	{"host restarted", hostRestarted},
	{"Consul away and emptied", consulAway},
}

func servesAndIsFound(t *testing.T, c *cluster) {
	j, task := job("web", "serve")
	withPort(j, task)
	c.run(t, j)
	a := c.one(t, j, "running")
	c.passes(t, a)
	c.awaitLog(t, a, "request /page\n")
	c.stop(t, "web")
	if found, _, err := c.consul.Health().Service("probe", "", false, nil); err != nil || len(found) != 0 {
		t.Errorf("after the stop Consul has %d services: %v", len(found), err)
	}
	done := c.one(t, j, "complete")
	if text := c.awaitLog(t, done, "bye"); !strings.HasSuffix(text, "bye\n") {
		t.Errorf("the log ends with %q", text)
	}
	wantMessage(t, done, "Terminated", "Exit Code: 0")
}

// passes waits for an allocation's service to be healthy in Consul, and asks it.
func (c *cluster) passes(t *testing.T, a *nomad.Allocation) {
	t.Helper()
	var addr string
	await(t, "a healthy service in Consul", func() error {
		found, _, err := c.consul.Health().Service("probe", "test", true, nil)
		if err != nil {
			return err
		}
		if len(found) != 1 {
			all, _, err := c.consul.Health().Service("probe", "", false, nil)
			return fmt.Errorf("%d services pass, %d are there: %v", len(found), len(all), err)
		}
		s := found[0].Service
		addr = net.JoinHostPort(s.Address, strconv.Itoa(s.Port)) // ::1 where the loopback has it
		for k, want := range map[string]string{"alloc_id": a.ID, "job": a.JobID, "task": "",
			"external-source": "nomad"} {
			if got := s.Meta[k]; got == "" || want != "" && got != want {
				t.Errorf("meta %s is %q, want %q", k, got, want)
			}
		}
		if !strings.HasPrefix(s.Meta["image-digest"], "sha256:") || s.Meta["jail"] == "" {
			t.Errorf("meta: %v", s.Meta)
		}
		return nil
	})
	body, err := httpGet("http://" + addr + "/page")
	if err != nil || !strings.HasPrefix(body, "hello from process") {
		t.Errorf("the page is %q: %v", body, err)
	}
}

func batch(j *nomad.Job) *nomad.Job {
	j.Type = ptr("batch")
	return j
}

func exitCodes(t *testing.T, c *cluster) {
	j, _ := job("seven", "exit", "7")
	c.run(t, batch(j))
	a := c.one(t, j, "failed")
	wantMessage(t, a, "Terminated", "Exit Code: 7")
	if text, err := c.logs(a, "stderr"); err != nil || text != "exit 7\n" {
		t.Errorf("stderr is %q: %v", text, err)
	}
	zero, _ := job("zero", "exit", "0")
	c.run(t, batch(zero))
	wantMessage(t, c.one(t, zero, "complete"), "Terminated", "Exit Code: 0")
	crash, _ := job("crash", "signals")
	c.run(t, batch(crash))
	check(t, c.nomad.Allocations().Signal(c.one(t, crash, "running"), nil, "probe", "SIGKILL"))
	wantMessage(t, c.one(t, crash, "failed"), "Terminated", "Signal: 9")
}

func environment(t *testing.T, c *cluster) {
	j, task := job("env", "env")
	task.Env = map[string]string{"COLOUR": "blue ${NOMAD_TASK_NAME}"}
	c.run(t, batch(j))
	a := c.one(t, j, "complete")
	text := "\n" + c.awaitLog(t, a, "PATH=")
	for _, want := range []string{"COLOUR=blue probe", "GREETING=hello", "NOMAD_ALLOC_DIR=/alloc",
		"NOMAD_TASK_DIR=/local", "NOMAD_SECRETS_DIR=/secrets",
		"NOMAD_ALLOC_ID=" + a.ID, "FREEJAIL_PORT_http=8099"} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("the environment lacks %s: %s", want, text)
		}
	}
	if strings.Contains(text, c.dir) || strings.Contains(text, "FREEJAIL_BIN") {
		t.Errorf("the host's environment is in the jail: %s", text)
	}
}

func names(t *testing.T, c *cluster) {
	j, task := job("names", "cat", "/etc/resolv.conf", "/etc/hosts")
	j.TaskGroups[0].Networks = []*nomad.NetworkResource{{DNS: &nomad.DNSConfig{Servers: []string{"192.0.2.53"},
		Searches: []string{"a.example"}, Options: []string{"ndots:2"}}}}
	task.Config["hostname"], task.Config["extra_hosts"] = "web.example.com", []string{"db:192.0.2.7"}
	c.run(t, batch(j))
	text := c.awaitLog(t, c.one(t, j, "complete"), "web.example.com")
	for _, want := range []string{"search a.example", "nameserver 192.0.2.53", "options ndots:2", "192.0.2.7\tdb",
		"127.0.0.1\tweb.example.com web"} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("%q is not in %s", want, text)
		}
	}
	both, task := job("both-dns", "cat")
	both.TaskGroups[0].Networks = j.TaskGroups[0].Networks
	task.Config["dns"] = []map[string]any{{"servers": []string{"192.0.2.54"}}}
	c.run(t, batch(both))
	wantMessage(t, c.one(t, both, "failed"), "Driver Failure", "remove one")
}

func user(t *testing.T, c *cluster) {
	j, task := job("user", "id")
	task.User = "web"
	c.run(t, batch(j))
	if text := c.awaitLog(t, c.one(t, j, "complete"), "\n"); text != "1080 1081 /var\n" {
		t.Errorf("the task ran as %q", text)
	}
	bad, task := job("baduser", "id")
	task.User = "nobody-here"
	c.run(t, batch(bad))
	wantMessage(t, c.one(t, bad, "failed"), "Driver Failure", "nobody-here")
}

func templateAndSecrets(t *testing.T, c *cluster) {
	j, task := job("template", "cat", "/local/conf", "/secrets/key")
	task.User = "web"
	task.Templates = []*nomad.Template{
		{EmbeddedTmpl: ptr("task {{ env \"NOMAD_TASK_NAME\" }}\n"), DestPath: ptr("local/conf"),
			ChangeMode: ptr("noop")},
		{EmbeddedTmpl: ptr("sesame\n"), DestPath: ptr("secrets/key"), ChangeMode: ptr("noop")},
	}
	c.run(t, batch(j))
	if text := c.awaitLog(t, c.one(t, j, "complete"), "sesame"); text != "task probe\nsesame\n" {
		t.Errorf("the files are %q", text)
	}
	s, task := job("secrets", "signals")
	task.User = "web"
	c.run(t, s)
	a := c.one(t, s, "running")
	code, stdout, stderr := c.exec(t, a, testimage.Program, "probe", "stat", "/secrets")
	if fields := strings.Fields(stdout); code != 0 || len(fields) != 3 || !strings.HasSuffix(fields[0], "rwx------") ||
		fields[1] != "1080" {
		t.Errorf("the secrets directory is %q %q, want it for the task's user alone", stdout, stderr)
	}
	if code, _, stderr := c.exec(t, a, testimage.Program, "probe", "write", "/alloc/data/shared", "x"); code != 0 {
		t.Errorf("the task cannot write to /alloc/data: %s", stderr)
	}
	if code, _, _ := c.exec(t, a, testimage.Program, "probe", "write", "/alloc/logs/forged", "x"); code == 0 {
		t.Error("the task can write to the directory of Nomad's logs")
	}
}

func execs(t *testing.T, c *cluster) {
	j, _ := job("exec", "signals")
	c.run(t, j)
	a := c.one(t, j, "running")
	code, stdout, stderr := c.exec(t, a, testimage.Program, "probe", "exit", "43")
	if code != 43 || stdout != "" || stderr != "exit 43\n" {
		t.Errorf("exec: %d %q %q", code, stdout, stderr)
	}
	code, stdout, _ = c.exec(t, a, testimage.Program, "probe", "env")
	if code != 0 || !strings.Contains(stdout, "GREETING=hello\n") ||
		!strings.Contains(stdout, "NOMAD_TASK_DIR=/local\n") {
		t.Errorf("exec has not the task's environment: %s", stdout)
	}
	code, stdout, _ = c.exec(t, a, testimage.Program, "probe", "terminal")
	if code != 5 || stdout != "no terminal\n" {
		t.Errorf("exec without a terminal: %d %q", code, stdout)
	}
	code, _, stderr = c.exec(t, a, "/bin/nothere")
	if code != 127 || !strings.Contains(stderr, "nothere") {
		t.Errorf("exec of no program: %d %q", code, stderr)
	}
}

// syncBuffer may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func execsInTerminal(t *testing.T, c *cluster) {
	j, _ := job("tty", "signals")
	c.run(t, j)
	a := c.one(t, j, "running")
	stdin, input := io.Pipe()
	var out syncBuffer
	sizes := make(chan nomad.TerminalSize)
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		code, err := c.nomad.Allocations().Exec(t.Context(), a, "probe", true,
			[]string{testimage.Program, "probe", "terminal"}, stdin, &out, &out, sizes, nil)
		done <- result{code, err}
	}()
	seen := func(want string) {
		t.Helper()
		await(t, "the terminal", func() error {
			if !strings.Contains(out.String(), want) {
				return fmt.Errorf("want %q in %q", want, out.String())
			}
			return nil
		})
	}
	seen("terminal\r\n")
	sizes <- nomad.TerminalSize{Height: 33, Width: 77}
	// The size and the line come by different ways: ask until it is there.
	await(t, "the new size", func() error {
		if _, err := io.WriteString(input, "a\n"); err != nil {
			return err
		}
		if !strings.Contains(out.String(), "a: 33 rows, 77 columns\r\n") {
			return fmt.Errorf("it shows %q", out.String())
		}
		return nil
	})
	_, err := io.WriteString(input, "end\n")
	check(t, err)
	if r := <-done; r.err != nil || r.code != 6 {
		t.Errorf("exec in a terminal: %+v", r)
	}
	input.Close()
}

func signalled(t *testing.T, c *cluster) {
	j, _ := job("signal", "signals")
	c.run(t, j)
	a := c.one(t, j, "running")
	c.awaitLog(t, a, "ready")
	check(t, c.nomad.Allocations().Signal(a, nil, "probe", "SIGUSR1"))
	c.awaitLog(t, a, "got user defined signal 1")
	if err := c.nomad.Allocations().Signal(a, nil, "probe", "SIGNONSENSE"); err == nil {
		t.Error("a signal that does not exist was sent")
	}
	c.stop(t, "signal")
	wantMessage(t, c.one(t, j, "complete"), "Terminated", "Exit Code: 3")
}

func killSignal(t *testing.T, c *cluster) {
	j, task := job("interrupt", "signals")
	task.KillSignal = "SIGINT"
	c.run(t, j)
	c.awaitLog(t, c.one(t, j, "running"), "ready")
	c.stop(t, "interrupt")
	wantMessage(t, c.one(t, j, "complete"), "Terminated", "Exit Code: 4")
}

func stubborn(t *testing.T, c *cluster) {
	j, task := job("stubborn", "stubborn")
	task.KillTimeout = ptr(time.Second)
	c.run(t, j)
	c.awaitLog(t, c.one(t, j, "running"), "ready")
	c.stop(t, "stubborn")
	wantMessage(t, c.one(t, j, "complete"), "Terminated", "Signal: 9")
}

func restarts(t *testing.T, c *cluster) {
	j, _ := job("restart", "exit", "5")
	j.TaskGroups[0].RestartPolicy = &nomad.RestartPolicy{Attempts: ptr(2), Delay: ptr(100 * time.Millisecond),
		Interval: ptr(time.Minute), Mode: ptr("fail")}
	c.run(t, batch(j))
	a := c.one(t, j, "failed")
	if n := a.TaskStates["probe"].Restarts; n != 2 {
		t.Errorf("the task was restarted %d times, want 2", n)
	}
	if text, err := c.logs(a, "stderr"); err != nil || text != strings.Repeat("exit 5\n", 3) {
		t.Errorf("the log of three runs is %q: %v", text, err)
	}
}

func memoryLimit(t *testing.T, c *cluster) {
	fits, task := job("fits", "eat", "200")
	task.Resources.MemoryMB, task.Resources.MemoryMaxMB = ptr(64), ptr(400)
	c.run(t, batch(fits))
	c.awaitLog(t, c.one(t, fits, "complete"), "ate 200")
	if runtime.GOOS == "freebsd" && !c.racct(t) {
		t.Skip("kern.racct.enable is 0 on this host: no memory limits")
	}
	j, task := job("eat", "eat", "400")
	task.Resources.MemoryMB = ptr(100)
	c.run(t, batch(j))
	a := c.one(t, j, "failed")
	wantMessage(t, a, "Terminated", "over its memory limit")
	if e := a.TaskStates["probe"].Events; !slices.ContainsFunc(e,
		func(e *nomad.TaskEvent) bool { return e.Details["oom_killed"] == "true" }) {
		t.Errorf("no event says oom_killed: %q", messages(a.TaskStates["probe"]))
	}
}

func diskLimit(t *testing.T, c *cluster) {
	fits, task := job("small", "fill", "8")
	task.Config["disk"] = "16MiB"
	c.run(t, batch(fits))
	c.awaitLog(t, c.one(t, fits, "complete"), "filled 8")
	j, task := job("fill", "fill", "64")
	task.Config["disk"] = "16MiB"
	c.run(t, batch(j))
	a := c.one(t, j, "failed")
	info, err := c.daemon.Info(t.Context())
	check(t, err)
	if info.Storage == "zfs" { // the write fails
		wantMessage(t, a, "Terminated", "Exit Code: 1")
	} else {
		wantMessage(t, a, "Terminated", "killed: over its disk limit of 16MiB")
	}
	wrong, task := job("wrong", "fill", "1")
	task.Config["disk"] = "much"
	c.run(t, batch(wrong))
	wantMessage(t, c.one(t, wrong, "failed"), `disk "much" is not a valid size (for example 256MiB)`)
}

func (c *cluster) racct(t *testing.T) bool {
	t.Helper()
	info, err := c.daemon.Info(t.Context())
	check(t, err)
	return info.Features["racct"] == "1"
}

func stats(t *testing.T, c *cluster) {
	j, _ := job("stats", "tick")
	c.run(t, j)
	a := c.one(t, j, "running")
	await(t, "figures of the task", func() error {
		u, err := c.nomad.Allocations().Stats(a, nil)
		if err != nil {
			return err
		}
		task := u.Tasks["probe"]
		if task == nil || task.ResourceUsage.MemoryStats.RSS == 0 || task.ResourceUsage.CpuStats.Percent == 0 ||
			len(task.Pids) == 0 {
			return fmt.Errorf("figures: %+v", u.ResourceUsage)
		}
		return nil
	})
	c.stop(t, "stats")
	figuresOfLoad(t, c)
}

// figuresOfLoad are those that Nomad's autoscaler reads: of a task that holds memory, and keeps one processor busy.
func figuresOfLoad(t *testing.T, c *cluster) {
	const held = 40 << 20
	j, _ := job("load", "load", strconv.Itoa(held))
	c.run(t, j)
	a := c.one(t, j, "running")
	c.awaitLog(t, a, "loaded")
	await(t, "figures of the load", func() error {
		u, err := c.nomad.Allocations().Stats(a, nil)
		if err != nil {
			return err
		}
		mem, cpu := u.ResourceUsage.MemoryStats, u.ResourceUsage.CpuStats
		if mem.Usage < held || mem.Usage > 128<<20 || !slices.Contains(mem.Measured, "Usage") {
			return fmt.Errorf("memory: %+v", mem)
		}
		if cpu.Percent < 5 || cpu.Percent > 150 || cpu.TotalTicks <= 0 {
			return fmt.Errorf("processor: %+v", cpu)
		}
		return nil
	})
}

func twenty(t *testing.T, c *cluster) {
	j, task := job("twenty", "signals")
	withPort(j, task)
	j.TaskGroups[0].Count = ptr(20)
	j.TaskGroups[0].Tasks[0].Resources.MemoryMB = ptr(32)
	// Twenty of Nomad's own log processes at once are too slow for it on a slow host.
	j.TaskGroups[0].RestartPolicy = &nomad.RestartPolicy{Attempts: ptr(5), Delay: ptr(time.Second),
		Interval: ptr(10 * time.Minute), Mode: ptr("fail")}
	c.run(t, j)
	for _, a := range c.allocs(t, "twenty", 20, "running") {
		c.awaitLog(t, a, "ready")
	}
	c.stop(t, "twenty")
	for _, a := range c.allocs(t, "twenty", 20, "complete") {
		wantMessage(t, a, "Terminated", "Exit Code: 3")
	}
}

// refusals each name what is wrong to the job's owner, and leave nothing.
func refusals(t *testing.T, c *cluster) {
	for name, part := range map[string]struct {
		set  func(*nomad.Job, *nomad.Task)
		want []string
	}{
		"parameter": {func(_ *nomad.Job, k *nomad.Task) { delete(k.Config, "parameters") },
			[]string{"GREETING", "whom the page greets"}},
		"unknown": {func(_ *nomad.Job, k *nomad.Task) { k.Config["image"] = "nothere" }, []string{"nothere"}},
		"privilege": {func(_ *nomad.Job, k *nomad.Task) { k.Config["allow"] = []string{"raw_sockets"} },
			[]string{"allow.raw_sockets", "freejail policy approve"}},
		"program": {func(_ *nomad.Job, k *nomad.Task) { k.Config["entrypoint"] = []string{"/bin/nothere"} },
			[]string{"/bin/nothere"}},
		"volume": {func(_ *nomad.Job, k *nomad.Task) { k.Config["volumes"] = []string{"/etc:/host"} },
			[]string{"/etc"}},
		"misspelt": {func(_ *nomad.Job, k *nomad.Task) { k.Config["imagee"] = "x" }, []string{"imagee"}},
		"low port": {func(_ *nomad.Job, k *nomad.Task) { k.Config["ports"] = map[string]string{"http": "80"} },
			[]string{"80/tcp"}},
		"port name": {func(_ *nomad.Job, k *nomad.Task) { k.Config["ports"] = map[string]string{"web": "8099"} },
			[]string{`"web"`, "http"}},
	} {
		t.Run(name, func(t *testing.T) {
			j, task := job("refused-"+strings.ReplaceAll(name, " ", "-"), "signals")
			part.set(j, task)
			c.run(t, j)
			wantMessage(t, c.one(t, j, "failed"), part.want...)
			c.stop(t, *j.ID)
			c.idle(t)
		})
	}
	taken, _ := job("taken", "serve")
	c.run(t, taken)
	c.one(t, taken, "running")
	second, _ := job("second", "serve")
	c.run(t, second)
	wantMessage(t, c.one(t, second, "failed"), "8099/tcp", "taken")
}

// ticking is a task whose lines must stay without a gap.
func ticking(t *testing.T, c *cluster, id string) (*nomad.Job, *nomad.Allocation, int) {
	t.Helper()
	j, _ := job(id, "tick")
	c.run(t, j)
	a := c.one(t, j, "running")
	c.awaitLog(t, a, "tick 3\n")
	return j, a, c.pid(t, id)
}

// pid is the process of a job's task.
func (c *cluster) pid(t *testing.T, job string) int {
	t.Helper()
	list, err := c.daemon.Tasks(t.Context())
	check(t, err)
	i := slices.IndexFunc(list, func(k client.Task) bool {
		return k.State == client.Running && k.Spec.Labels["job"] == job
	})
	if i < 0 {
		t.Fatalf("no task runs: %+v", list)
	}
	return list[i].PID
}

var ticks = regexp.MustCompile(`tick (\d+)\n`)

// runsOn fails if the task is another process, or a line of its log is lost.
func (c *cluster) runsOn(t *testing.T, a *nomad.Allocation, pid int) {
	t.Helper()
	text, err := c.logs(a, "stdout")
	check(t, err)
	all := ticks.FindAllStringSubmatch(text, -1)
	last, err := strconv.Atoi(all[len(all)-1][1])
	check(t, err)
	text = c.awaitLog(t, a, fmt.Sprintf("tick %d\n", last+20))
	for i, m := range ticks.FindAllStringSubmatch(text, -1) {
		if m[1] != strconv.Itoa(i+1) {
			t.Fatalf("line %d of the log is %q: lines are lost", i+1, m[0])
		}
	}
	if now := c.pid(t, a.JobID); now != pid {
		t.Errorf("the task is process %d now, it was %d", now, pid)
	}
	info, _, err := c.nomad.Allocations().Info(a.ID, nil)
	check(t, err)
	if info.ClientStatus != "running" || info.TaskStates["probe"].Restarts != 0 {
		t.Errorf("the allocation is %s, restarted %d times", info.ClientStatus, info.TaskStates["probe"].Restarts)
	}
}

// endsWith stops a ticking task, whose real exit code is 9.
func (c *cluster) endsWith(t *testing.T, j *nomad.Job, want string) {
	t.Helper()
	c.stop(t, *j.ID)
	wantMessage(t, c.one(t, j, "complete"), "Terminated", want)
}

func pluginKilled(t *testing.T, c *cluster) {
	j, a, pid := ticking(t, c, "plugin")
	old := pluginProcess(t, c)
	check(t, syscall.Kill(old, syscall.SIGKILL))
	await(t, "another plugin process", func() error {
		now, err := findPlugin(c)
		if err == nil && now == old {
			err = fmt.Errorf("it is still %d", old)
		}
		return err
	})
	c.runsOn(t, a, pid)
	c.endsWith(t, j, "Exit Code: 9")
}

func daemonUpgraded(t *testing.T, c *cluster) {
	j, a, pid := ticking(t, c, "upgrade")
	before, err := c.daemon.Info(t.Context())
	check(t, err)
	after, err := c.daemon.Upgrade(t.Context(), client.UpgradeRequest{})
	check(t, err)
	if after.PID != before.PID || after.Generation == before.Generation {
		t.Errorf("upgraded from %+v to %+v", before, after)
	}
	c.runsOn(t, a, pid)
	c.endsWith(t, j, "Exit Code: 9")
}

func daemonKilled(t *testing.T, c *cluster) {
	j, a, pid := ticking(t, c, "killed")
	c.stopDaemon(t, syscall.SIGKILL)
	c.awaitDaemon(t) // the plugin starts another
	c.runsOn(t, a, pid)
	want := "Exit Code: 9"
	if runtime.GOOS == "linux" { // which tells the exit code of a process to its parent alone
		want = "the exit code is unknown"
	}
	c.endsWith(t, j, want)
}

// unhealthyAndBack is a node whose daemon cannot start for a while.
func unhealthyAndBack(t *testing.T, c *cluster) {
	good, err := os.ReadFile(c.path("freejail.hcl"))
	check(t, err)
	c.write(t, "freejail.hcl", "state_dirr = \"/nowhere\"\n")
	c.stopDaemon(t, syscall.SIGTERM)
	health := func(want bool, reason string) {
		t.Helper()
		await(t, fmt.Sprintf("the driver's health to be %v", want), func() error {
			n, err := c.nomadAgent.Node()
			if err != nil {
				return err
			}
			if d := n.Drivers["freejail"]; d.Healthy != want || !strings.Contains(d.HealthDescription, reason) {
				return fmt.Errorf("it is %v: %s", d.Healthy, d.HealthDescription)
			}
			return nil
		})
	}
	health(false, c.path("daemon.log"))
	c.write(t, "freejail.hcl", string(good))
	health(true, "Healthy")
}

func (c *cluster) awaitDaemon(t *testing.T) {
	t.Helper()
	await(t, "the daemon", func() error {
		_, err := c.daemon.Info(t.Context())
		return err
	})
}

func agentRestarted(t *testing.T, c *cluster) {
	j, a, pid := ticking(t, c, "agent")
	check(t, c.nomadAgent.End(syscall.SIGINT))
	check(t, c.nomadAgent.Start(t.Context()))
	c.one(t, j, "running")
	c.runsOn(t, a, pid)
	check(t, c.nomadAgent.End(syscall.SIGKILL))
	check(t, c.nomadAgent.Start(t.Context()))
	c.one(t, j, "running")
	c.runsOn(t, a, pid)
	c.endsWith(t, j, "Exit Code: 9")
}

func consulAway(t *testing.T, c *cluster) {
	check(t, c.consulAgent.End(syscall.SIGKILL))
	j, task := job("away", "serve")
	withPort(j, task)
	c.run(t, j)
	a := c.one(t, j, "running")
	await(t, "an event about Consul", func() error {
		info, _, err := c.nomad.Allocations().Info(a.ID, nil)
		if err != nil {
			return err
		}
		if all := messages(info.TaskStates["probe"]); !slices.ContainsFunc(all,
			func(m string) bool { return strings.Contains(m, "Consul") }) {
			return fmt.Errorf("events: %q", all)
		}
		return nil
	})
	registered := func() error {
		found, _, err := c.consul.Health().Service("probe", "", true, nil)
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("Consul has %d", len(found))
		}
		return err
	}
	check(t, c.consulAgent.Start(t.Context()))
	await(t, "the service in the new Consul", registered)
	check(t, c.consulAgent.End(syscall.SIGKILL)) // a dev agent forgets everything
	check(t, c.consulAgent.Start(t.Context()))
	await(t, "the service in the emptied Consul", registered)
	services, err := c.consul.Agent().Services()
	check(t, err)
	for id := range services {
		if strings.Contains(id, "probe") || strings.HasPrefix(id, "freejail") {
			check(t, c.consul.Agent().ServiceDeregister(id))
		}
	}
	await(t, "the service that somebody removed", registered)
}

// pluginProcess is the plugin that the agent runs now.
func pluginProcess(t *testing.T, c *cluster) int {
	t.Helper()
	var pid int
	await(t, "the plugin's process", func() (err error) { pid, err = findPlugin(c); return err })
	return pid
}

// findPlugin looks for the agent's child that runs the plugin's path.
func findPlugin(c *cluster) (int, error) {
	all, err := allProcesses()
	if err != nil {
		return 0, err
	}
	for _, p := range all {
		if p.parent == c.nomadAgent.Pid && strings.Contains(p.args, c.path("plugins")) {
			return p.pid, nil
		}
	}
	return 0, fmt.Errorf("none of %d processes is the agent's plugin", len(all))
}
