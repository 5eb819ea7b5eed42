package fleet

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/catalog"
	"github.com/freejail/freejail/internal/testagent"
)

const services = 20 // of a host

// consul is what was measured of an agent and a server of Consul, which are one process.
type consul struct {
	first       time.Duration // until the agent has all services of a host
	back        time.Duration // the same after it has forgotten all, from its first answer
	perMinute   float64       // calls of a host's catalog to its agent while nothing happens
	away        float64       // and while it is away
	read, write time.Duration // processor time of the server for one
}

func measureConsul(ctx context.Context, bin, dir string) (m consul, err error) {
	a, err := testagent.NewConsul(bin, filepath.Join(dir, "log"))
	if err != nil {
		return m, err
	}
	var server *exec.Cmd
	a.Prepare = func(cmd *exec.Cmd) { server = cmd }
	if err := a.Start(ctx); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, a.End(os.Kill)) }()
	to, err := url.Parse("http://" + a.Addr)
	if err != nil {
		return m, err
	}
	var calls atomic.Int64
	forward := httputil.NewSingleHostReverseProxy(to)
	forward.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		forward.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	c, err := catalog.New(catalog.Config{Address: proxy.Listener.Addr().String(), Node: "host"}, hclog.NewNullLogger(),
		func(string, string) {})
	if err != nil {
		return m, err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() { c.Run(running); close(ended) }()
	defer func() { stop(); <-ended }()
	for i := range services {
		c.Set(fmt.Sprintf("task%d", i), []catalog.Service{{PortName: "http", Name: "web", Port: 8000 + i,
			Protocol: "tcp",
			Check:    &catalog.Check{Type: "tcp", Interval: 10 * time.Second, Timeout: time.Second}}})
	}
	if m.first, err = registered(ctx, a.Client); err != nil {
		return m, err
	}
	time.Sleep(20 * time.Second) // until it looks as seldom as it will
	if m.perMinute, err = counted(ctx, &calls, 30*time.Second); err != nil {
		return m, err
	}
	if err := a.End(os.Kill); err != nil {
		return m, err
	}
	time.Sleep(30 * time.Second) // the longest pause between two tries is 15 seconds
	if m.away, err = counted(ctx, &calls, 45*time.Second); err != nil {
		return m, err
	}
	if err := a.Start(ctx); err != nil {
		return m, err
	}
	if m.back, err = registered(ctx, a.Client); err != nil {
		return m, err
	}
	m.write, err = often(server, func(i int) error {
		node := i % 100
		_, err := a.Client.Catalog().Register(&api.CatalogRegistration{Node: fmt.Sprintf("node%d", node),
			Address: "192.0.2.1", Service: &api.AgentService{ID: fmt.Sprint("web", i), Service: "web", Port: i},
			Check: &api.AgentCheck{CheckID: fmt.Sprint("check", i), Name: "web", Status: "passing",
				ServiceID: fmt.Sprint("web", i)}}, nil)
		return err
	})
	if err != nil {
		return m, err
	}
	m.read, err = often(server, func(i int) error {
		_, _, err := a.Client.Catalog().NodeServiceList(fmt.Sprintf("node%d", i%100), nil)
		return err
	})
	return m, err
}

// registered is how long it takes until the agent has all services.
func registered(ctx context.Context, c *api.Client) (time.Duration, error) {
	began := time.Now()
	for {
		have, err := c.Agent().Services()
		if err == nil && len(have) == services {
			return time.Since(began), nil
		}
		if err := until(ctx, time.Now().Add(10*time.Millisecond), nil); err != nil {
			return 0, err
		}
	}
}

func counted(ctx context.Context, calls *atomic.Int64, d time.Duration) (perMinute float64, err error) {
	before := calls.Load()
	err = until(ctx, time.Now().Add(d), nil)
	return float64(calls.Load()-before) / d.Minutes(), err
}

// often calls something 4,000 times, eight at once, and tells what of the processor each takes of a server.
func often(server *exec.Cmd, call func(i int) error) (each time.Duration, err error) {
	const times, at = 4000, 8
	before, err := usedBy(server)
	if err != nil {
		return 0, err
	}
	var all sync.WaitGroup
	errs := make([]error, at)
	for k := range at {
		all.Go(func() {
			for i := k; i < times && errs[k] == nil; i += at {
				errs[k] = call(i)
			}
		})
	}
	all.Wait()
	after, err := usedBy(server)
	return (after - before) / times, errors.Join(append(errs, err)...)
}

// usedBy is the processor time of a process so far: by Linux in hundredths of a second, by ps(1) elsewhere.
func usedBy(cmd *exec.Cmd) (d time.Duration, err error) {
	pid := strconv.Itoa(cmd.Process.Pid)
	if b, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil {
		_, rest, _ := strings.Cut(string(b), ") ")
		var user, system int
		f := strings.Fields(rest)
		if _, err := fmt.Sscan(f[11]+" "+f[12], &user, &system); err != nil {
			return 0, err
		}
		return time.Duration(user+system) * 10 * time.Millisecond, nil
	}
	out, err := exec.Command("ps", "-o", "time=", "-p", pid).Output()
	if err != nil {
		return 0, fmt.Errorf("ps: %w", err)
	}
	for part := range strings.SplitSeq(strings.TrimSpace(string(out)), ":") {
		n, err := strconv.ParseFloat(part, 64)
		if err != nil {
			return 0, fmt.Errorf("ps: %w", err)
		}
		d = 60*d + time.Duration(n*float64(time.Second))
	}
	return d, nil
}

// spreads are within which time agents of so many ask servers that are back, and those that fail ask again: see
// StateSyncer of Consul's agent/ae.
func spreads(agents int) (back, again time.Duration) {
	factor := 1
	if agents > 128 {
		factor = int(math.Ceil(math.Log2(float64(agents))-7)) + 1
	}
	return time.Duration(factor) * 3 * time.Second, time.Duration(1+factor) * 15 * time.Second
}

// load is of servers that are back: within which time agents ask, each for two readings and so many registrations, and
// for how long the leader works on that. It registers on one processor, as the log of Raft is one, and reads on four.
func (m consul) load(agents int, writes float64) (asked, took time.Duration) {
	asked, _ = spreads(agents)
	work := time.Duration(float64(agents) * (writes*float64(m.write) + 2*float64(m.read)/4))
	return asked, max(asked, work)
}
