package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/telemetry"
	"github.com/freejail/freejail/internal/testimage"
)

// exported are the names of all metrics.
func exported() (names []string) {
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		telemetry.New("test").Describe(descs)
		(&lookup{}).Describe(descs)
	}()
	name := regexp.MustCompile(`fqName: "([^"]+)"`)
	for d := range descs {
		names = append(names, name.FindStringSubmatch(d.String())[1])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// The page of metrics has all that the daemon tells, and no others.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Skip("the documentation is not here")
	}
	documented := regexp.MustCompile(`freejail_[a-z_]+[a-z]`).FindAllString(string(text), -1)
	slices.Sort(documented)
	documented = slices.DeleteFunc(slices.Compact(documented), func(s string) bool {
		return s == "freejail_exporter" || strings.HasPrefix(s, "freejail_mirror_") // the mirror's own test has those
	})
	if all := exported(); !slices.Equal(documented, all) || len(all) < 40 {
		t.Errorf("documented %q\nexported %q", documented, all)
	}
}

// A counter that begins at 1 is not seen to grow: each kind of event is known before the first one.
func TestEventsAreCountedFromZero(t *testing.T) {
	call := regexp.MustCompile(`(?i)(?:event|tell|told)\((?:[^"\n]+, )?"([a-z]+)",\s`)
	seen := 0
	for _, dir := range []string{".", "task", "images", "judge"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Skip("the source is not here")
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
				continue
			}
			src, err := os.ReadFile(dir + "/" + e.Name())
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range call.FindAllStringSubmatch(string(src), -1) {
				if seen++; !slices.Contains(client.EventKinds, m[1]) {
					t.Errorf("%s: an event %q is not among client.EventKinds", e.Name(), m[1])
				}
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d events were seen", seen)
	}
}

func metricsOf(t *testing.T, c *client.Client) string {
	t.Helper()
	var out bytes.Buffer
	if err := c.Metrics(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	return "\n" + out.String()
}

// A task of Nomad's is told by its job, as long as it runs; what it did stays counted.
func TestMetricsOfATask(t *testing.T) {
	c, _ := daemonAt(t, shortDir(t), "")
	path, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "prog", Manifest: `{"schemaVersion":1}`,
		Cmd: []string{"inside"}})
	if err != nil {
		t.Fatal(err)
	}
	spec := client.TaskSpec{ID: "web-1", Owner: "nomad", Image: path, Limits: client.Limits{MemoryBytes: 256 << 20},
		Labels: map[string]string{"namespace": "default", "job": "shop", "group": "front", "task": "web", "alloc_id": "a1"}}
	const names = `group="front",job="shop",name="web",namespace="default"`
	const labels = `{` + names + `,task="web-1"}`
	has := func(in string, wanted ...string) {
		t.Helper()
		for _, want := range wanted {
			if !strings.Contains(in, "\n"+want) {
				t.Errorf("no %s in %s", want, in)
			}
		}
	}
	has(metricsOf(t, c), `freejail_events_total{kind="refused"} 0`, `freejail_task_exits_total{reason="memory"} 0`,
		`freejail_build_info{arch="`)
	for range 2 {
		if _, err := c.Start(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		text := metricsOf(t, c)
		for !strings.Contains(text, "\nfreejail_task_memory_bytes"+labels+" ") { // a sample may be half a second old
			text = metricsOf(t, c)
		}
		has(text, "freejail_task_memory_limit_bytes"+labels+" 2.68435456e+08",
			"freejail_task_processes"+labels+" 1", "freejail_task_start_time_seconds"+labels+" ",
			`freejail_task_cpu_seconds_total{group="front",job="shop",mode="user",name="web",namespace="default",task="web-1"} `,
			`freejail_task_info{alloc_id="a1",digest="sha256:`, `freejail_tasks{state="running"} 1`,
			`freejail_start_step_duration_seconds_count{result="ok",step="jail"} `)
		if _, err := c.Stop(t.Context(), "web-1", client.StopRequest{}); err != nil {
			t.Fatal(err)
		}
		remove(t, c, "web-1")
	}
	text := metricsOf(t, c)
	has(text, "freejail_task_starts_total{"+names+"} 2", "freejail_task_restarts_total{"+names+"} 1",
		`freejail_start_duration_seconds_count{result="ok"} 2`, `freejail_unpack_duration_seconds_count{result="ok"} 1`,
		`freejail_policy_decision_duration_seconds_count{result="ok"} 2`, `freejail_events_total{kind="started"} 2`,
		`freejail_task_exits_total{reason="signal"} 2`, `freejail_policy_decisions_total{result="allowed"} 2`)
	if strings.Contains(text, "web-1") {
		t.Errorf("a task that is gone is told of: %s", text)
	}
}

// Whoever scrapes all the time is answered by the daemon before an upgrade or by the one after it, and never refused.
func TestScrapesOverUpgrades(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c, _ := daemonAt(t, shortDir(t), fmt.Sprintf("metrics {\n  listen = %q\n}\n", at))
	for {
		if conn, err := net.Dial("tcp", at); err == nil {
			conn.Close()
			break
		}
		time.Sleep(time.Millisecond)
	}
	ended, scraped := make(chan struct{}), make(chan error)
	go func() {
		defer close(scraped)
		for {
			if err := scrapeOnce("http://" + at + "/metrics"); err != nil {
				scraped <- err
			}
			select {
			case <-ended:
				return
			default:
			}
		}
	}()
	go func() {
		defer close(ended)
		for range 3 {
			if _, err := c.Upgrade(t.Context(), client.UpgradeRequest{}); err != nil {
				t.Error(err)
			}
		}
	}()
	for err := range scraped {
		t.Error(err)
	}
}

// scrapeOnce keeps its connection for the next time, as Prometheus does.
func scrapeOnce(url string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(resp.Body)
	if !strings.Contains(string(b), "freejail_tasks") && err == nil {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return errors.Join(err, resp.Body.Close())
}

// A counter does not fall when a process ends whose time nobody has from then on.
func TestCPUTimeGrows(t *testing.T) {
	var c cpuTime
	var last time.Duration
	for _, now := range []time.Duration{1, 5, 2, 3, 0, 4} {
		c = c.then(client.Usage{UserTime: now, SysTime: 1})
		if c.user.total() < last {
			t.Errorf("%d after %d", c.user.total(), last)
		}
		last = c.user.total()
	}
	if last != 10 || c.system.total() != 1 {
		t.Errorf("%d and %d", last, c.system.total())
	}
}
