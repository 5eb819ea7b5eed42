// Package monitoring has a real Prometheus scrape a real daemon with tasks, and asks it what the example's dashboard
// and alerts ask.
package monitoring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testagent"
	"github.com/freejail/freejail/internal/testcert"
	"github.com/freejail/freejail/internal/testhost"
	"github.com/freejail/freejail/internal/testimage"
	"github.com/freejail/freejail/internal/testprog"
)

var programs = testprog.Programs{"work": work, "end": func([]string) int { return 0 }}

func TestMain(m *testing.M) {
	if len(os.Args) < 2 || programs[os.Args[1]] == nil {
		if code, done := testhost.Apart(); done {
			os.Exit(code)
		}
		if os.Geteuid() == 0 && prepare() != nil {
			os.Exit(1)
		}
	}
	testprog.Main(m, programs)
}

// prepare has the namespace be as a host whose networks translate addresses.
func prepare() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return err
}

// work writes two megabytes, and computes until it is told to end.
func work([]string) int {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	if err := os.WriteFile("/written", bytes.Repeat([]byte("x"), 2<<20), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for tick := time.Tick(50 * time.Millisecond); ; {
		select {
		case <-c:
			return 0
		case <-tick:
			for i, n := 0, 0; i < 1e6; i++ {
				n += i
			}
		}
	}
}

const examples = "../../example/grafana/"

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// program finds what the makefile has brought (PROMETHEUS_BIN is the path of prometheus; promtool lies beside it), or
// the host has.
func program(t *testing.T, name string) string {
	t.Helper()
	if bin := os.Getenv("PROMETHEUS_BIN"); bin != "" {
		return filepath.Join(filepath.Dir(bin), name)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not on this host: install it (pkg install prometheus); on Debian make test brings it", name)
	}
	return path
}

func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	cmd := exec.Command(program(t, "promtool"), args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %q: %v\n%s", args, err, out)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	check(t, err)
	return string(b)
}

// Each alert fires in a test of promtool's, and asks for metrics that there are.
func TestAlerts(t *testing.T) {
	promtool(t, "", "check", "rules", examples+"alerts.yml")
	promtool(t, "", "check", "config", "--syntax-only", examples+"prometheus.yml")
	promtool(t, "", "test", "rules", examples+"alerts_test.yml")
	rules, tests, docs := read(t, examples+"alerts.yml"), read(t, examples+"alerts_test.yml"), read(t,
		"../../docs/metrics.md")
	alerts := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(rules, -1)
	for _, m := range alerts {
		if !regexp.MustCompile(`alertname: ` + m[1] + `\n +eval_time: .*\n +exp_alerts:\n`).MatchString(tests) {
			t.Errorf("nothing tests that %s fires", m[1])
		}
	}
	for _, name := range regexp.MustCompile(`freejail_\w+`).FindAllString(rules, -1) {
		if !strings.Contains(docs, "`"+strings.TrimSuffix(name, "_count")) {
			t.Errorf("there is no metric %s", name)
		}
	}
	if len(alerts) < 10 {
		t.Errorf("only %d alerts were found", len(alerts))
	}
}

// query is one that a panel of the dashboard makes.
type query struct{ panel, expr string }

// queries are those of the dashboard, and of its variables.
func queries(t *testing.T) (out []query) {
	t.Helper()
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name, Query string }
		}
	}
	check(t, json.Unmarshal([]byte(read(t, examples+"freejail.json")), &d))
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			out = append(out, query{p.Title, target.Expr})
		}
	}
	for _, v := range d.Templating.List {
		if m := regexp.MustCompile(`^label_values\((\w+), (\w+)\)$`).FindStringSubmatch(v.Query); m != nil {
			out = append(out, query{"variable " + v.Name, fmt.Sprintf(`%s{%s!=""}`, m[1], m[2])})
		}
	}
	if len(out) < 30 {
		t.Fatalf("only %d queries were found", len(out))
	}
	return out
}

// monitored is a daemon whose metrics a Prometheus has.
type monitored struct {
	dir    string
	daemon *client.Client
	url    string // of Prometheus
}

func (m *monitored) path(name string) string { return filepath.Join(m.dir, name) }

func start(t *testing.T) *monitored {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	bin := os.Getenv("FREEJAIL_BIN")
	if bin == "" {
		t.Skip("FREEJAIL_BIN is not set; `make test` sets it")
	}
	program(t, "prometheus")
	dir, err := os.MkdirTemp("", "fj") // short enough for a socket's path
	check(t, err)
	t.Cleanup(func() { check(t, errors.Join(mount.UnmountUnder(dir), os.RemoveAll(dir))) })
	m := &monitored{dir: dir, daemon: client.New(filepath.Join(dir, "s"))}
	at, err := testagent.Addresses(3)
	check(t, err)
	testcert.Write(t, m.path("cert"), m.path("key"), 1)
	for _, name := range []string{"token", "password"} {
		check(t, os.WriteFile(m.path(name), []byte("0123456789abcdef\n"), 0o600))
	}
	check(t, os.WriteFile(m.path("freejail.hcl"), fmt.Appendf(nil, "state_dir = %q\nsocket = %q\n"+
		"metrics {\n  listen = %q\n  tls_cert = %q\n  tls_key = %q\n  token_file = %q\n}\n"+
		"network \"web\" {\n  mode = \"nat\"\n  subnet4 = \"10.211.77.0/24\"\n}\npermit {\n  networks = [\"web\"]\n}\n"+
		"mirror {\n  listen = %q\n  images = [\"r.example/**\"]\n  tls_cert = %[4]q\n  tls_key = %[5]q\n"+
		"  username = \"rack\"\n  password_file = %[8]q\n}\n", m.path("state"), m.path("s"), at[0].String(),
		m.path("cert"), m.path("key"), m.path("token"), at[2].String(), m.path("password")), 0o600))
	m.run(t, "freejail", bin, "daemon", "--config", m.path("freejail.hcl"))
	t.Cleanup(func() { // tasks outlive a daemon
		tasks, err := m.daemon.Tasks(context.Background())
		for _, task := range tasks {
			err = errors.Join(err, m.daemon.Destroy(context.Background(), task.Spec.ID, true))
		}
		check(t, err)
	})
	m.url = "http://" + at[1].String()
	conf := strings.NewReplacer("15s", "1s", "192.0.2.10:9477", at[0].String(),
		"/usr/local/etc/prometheus/freejail-ca.pem", m.path("cert"),
		"/usr/local/etc/prometheus/freejail-token", m.path("token"), "192.0.2.10:5001", at[2].String(),
		"/usr/local/etc/prometheus/freejail-mirror-password", m.path("password")).Replace(read(t, examples+"prometheus.yml"))
	check(t, os.WriteFile(m.path("prometheus.yml"), []byte(conf), 0o600))
	check(t, os.WriteFile(m.path("alerts.yml"), []byte(read(t, examples+"alerts.yml")), 0o600))
	promtool(t, "", "check", "config", m.path("prometheus.yml"))
	m.run(t, "prometheus", program(t, "prometheus"), "--config.file="+m.path("prometheus.yml"),
		"--storage.tsdb.path="+m.path("data"), "--web.listen-address="+at[1].String(), "--log.level=warn")
	m.run(t, "mirror", bin, "serve", "--mirror", "--config", m.path("freejail.hcl"))
	return m
}

// run has a program end with the test.
func (m *monitored) run(t *testing.T, name, bin string, args ...string) {
	t.Helper()
	a, err := testagent.Run(exec.Command(bin, args...), m.path(name+".log"))
	check(t, err)
	t.Cleanup(func() {
		if err := a.End(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("%s:\n%s", name, read(t, m.path(name+".log")))
		}
	})
	await(t, name, func() error {
		if name == "freejail" {
			_, err := m.daemon.Info(t.Context())
			return err
		}
		_, err := m.ask(t, "up")
		return err
	})
}

func await(t *testing.T, what string, ask func() error) {
	t.Helper()
	check(t, testagent.Await(context.Background(), what, ask))
}

// ask is the values that a query has now.
func (m *monitored) ask(t *testing.T, expr string) (values []float64, err error) {
	t.Helper()
	resp, err := http.Get(m.url + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct{ Result []struct{ Value [2]any } }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, testagent.Finally(errors.New(answer.Error))
	}
	for _, r := range answer.Data.Result {
		text, _ := r.Value[1].(string)
		if v, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return nil, fmt.Errorf("no data: %s", expr)
	}
	return values, nil
}

// task starts one of Nomad's job shop.
func (m *monitored) task(t *testing.T, id, image, alloc string, more func(*client.TaskSpec)) error {
	t.Helper()
	s := client.TaskSpec{ID: id, Owner: "nomad", Image: image,
		Limits: client.Limits{MemoryBytes: 256 << 20, DiskBytes: 64 << 20},
		Labels: map[string]string{"namespace": "default", "job": "shop", "group": "front", "task": "web",
			"alloc_id": alloc}}
	more(&s)
	_, err := m.daemon.Start(t.Context(), s)
	return err
}

// Every query of the dashboard has data of a host on which all of it happens.
func TestDashboard(t *testing.T) {
	m := start(t)
	work, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "prog", Manifest: `{"schemaVersion":1}`,
		Cmd: []string{"work"}})
	check(t, err)
	check(t, m.task(t, "web-1", work, "a1", func(s *client.TaskSpec) { s.Network = "web" }))
	ended := 0
	happens := func() { // again and again: what Prometheus sees for the first time did not grow
		ended++
		id := fmt.Sprintf("end-%d", ended)
		check(t, m.task(t, id, work, "a2", func(s *client.TaskSpec) { s.Args = []string{"end"} }))
		_, err := m.daemon.Wait(t.Context(), id)
		check(t, errors.Join(err, m.daemon.Destroy(t.Context(), id, true)))
		if err := m.task(t, "refused", work, "a3", func(s *client.TaskSpec) {
			s.Wants.Allow = []string{"raw_sockets"}
		}); !client.IsRefused(err) {
			t.Fatalf("a task with raw sockets: %v", err)
		}
		image, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "prog",
			Manifest: `{"schemaVersion":1}`, Cmd: []string{"end"}, Files: map[string]string{"/number": id}})
		check(t, err)
		check(t, m.task(t, "other", image, "a4", func(*client.TaskSpec) {}))
		check(t, m.daemon.Destroy(t.Context(), "other", true))
		if _, err := m.daemon.Pull(t.Context(), client.PullRequest{Ref: "127.0.0.1:1/nothing:1"}, nil); err == nil {
			t.Fatal("pulled from nowhere")
		}
	}
	left := queries(t)
	fill := strings.NewReplacer("$__rate_interval", "5s", "$instance", ".*", "$namespace", ".*", "$job", ".*")
	await(t, "data for every query", func() error {
		happens()
		var missing []error
		left = slices.DeleteFunc(left, func(q query) bool {
			_, err := m.ask(t, fill.Replace(q.expr))
			if err != nil {
				missing = append(missing, fmt.Errorf("%s: %w", q.panel, err))
			}
			return err == nil
		})
		return errors.Join(missing...)
	})
	for expr, want := range map[string]func(float64) bool{
		`freejail_task_memory_bytes{job="shop",group="front",task="web-1"}`:   func(v float64) bool { return v > 1<<20 },
		`freejail_task_disk_written_bytes{task="web-1"}`:                      func(v float64) bool { return v >= 2<<20 },
		`rate(freejail_task_cpu_seconds_total{task="web-1",mode="user"}[5s])`: func(v float64) bool { return v > 0 },
		`freejail_task_restarts_total{job="shop",name="web"}`:                 func(v float64) bool { return v >= 1 },
		`up{job="freejail"}`: func(v float64) bool { return v == 1 },
	} {
		await(t, expr, func() error {
			values, err := m.ask(t, expr)
			if err == nil && (len(values) != 1 || !want(values[0])) {
				err = fmt.Errorf("it is %v", values)
			}
			return err
		})
	}
	await(t, "tasks that are gone to be told no more", func() error {
		if _, err := m.ask(t, `freejail_task_info{task=~"end-.*"}`); err == nil {
			return errors.New("they are told of")
		}
		return nil
	})
	var text bytes.Buffer
	check(t, m.daemon.Metrics(t.Context(), &text))
	promtool(t, text.String(), "check", "metrics")
}
