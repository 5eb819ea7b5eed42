package fleet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// What `make fleet` gives.
var (
	hosts = flag.Int("hosts", 0, "simulate so many hosts, and print the tables of docs/scale.md")
	out   = flag.String("out", "", "the directory of the plots")
)

// many skips what takes minutes.
func many(t *testing.T) int {
	t.Helper()
	if *hosts == 0 {
		t.Skip("make fleet runs it")
	}
	return *hosts
}

// here is what was measured on this host.
var here = sync.OnceValues(func() (measured, error) {
	dir, err := os.MkdirTemp("", "fleet")
	if err != nil {
		return measured{}, err
	}
	m, err := measureRegistry(context.Background(), dir)
	return m, errors.Join(err, os.RemoveAll(dir))
})

func TestRegistry(t *testing.T) {
	if many(t) > 0 {
		m, err := here()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%s\n%s\n", machine(), m)
	}
}

func simulate(t *testing.T, m measured, r rollout) (o *outcome) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var err error
		if o, err = r.run(m); err != nil {
			t.Fatal(err)
		}
	})
	return o
}

func draw(t *testing.T, name, title string, most time.Duration, curves []curve) {
	t.Helper()
	if *out == "" {
		return
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*out, name), []byte(plot(title, most, curves)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRollouts(t *testing.T) {
	n := many(t)
	m, err := here()
	if err != nil {
		t.Fatal(err)
	}
	show := table{head: []string{"how", "50 %", "99 %", "all", "tries of a host", "three failed", "transfers at once",
		"the registry sent", "refused"}}
	var curves []curve
	for _, r := range rollouts(n) {
		began := time.Now()
		o := simulate(t, m, r)
		t.Logf("%s: %s", r.name, time.Since(began).Round(time.Second))
		show.add(r.name, o.at(.5), o.at(.99), o.at(1), float64(o.tries)/float64(n), o.gaveUp, o.registry.peak,
			fmt.Sprintf("%.0f GB", float64(o.registry.sent)/1e9), o.registry.refused)
		curves = append(curves, curve{r.name, o.took, n})
	}
	fmt.Printf("\nA new image of 250 MB for %d hosts\n\n%s", n, &show)
	draw(t, "fleet-rollout.svg", "Hosts that have a new image", 75*time.Minute, curves)
}

func TestTroubles(t *testing.T) {
	n := many(t)
	m, err := here()
	if err != nil {
		t.Fatal(err)
	}
	show := table{head: []string{"what happens", "50 %", "99 %", "all", "tries of a host", "three failed",
		"requests a second, most: meanwhile", "in the minute after", "requests"}}
	for _, r := range troubles(n) {
		began := time.Now()
		o := simulate(t, m, r)
		t.Logf("%s: %s", r.name, time.Since(began).Round(time.Second))
		show.add(r.name, o.at(.5), o.at(.99), o.at(1), float64(o.tries)/float64(n), o.gaveUp, o.during, o.back,
			o.registry.requests)
	}
	fmt.Printf("\nA registry that fails, %d hosts\n\n%s", n, &show)
}

// withFleet has a fleet, whose requests for lists go to its own server, in a bubble.
func withFleet(t *testing.T, do func(ctx context.Context, f *fleet) error) {
	t.Helper()
	f, err := newFleet(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	before := http.DefaultTransport
	http.DefaultTransport = &f.lists
	defer func() {
		http.DefaultTransport = before
		if err := f.images.Close(); err != nil {
			t.Error(err)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(now())) // the clock of a bubble begins long ago, files are of now
		if err := do(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	})
}

// now is the host's time, of which a bubble knows nothing.
func now() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &ts); err != nil {
		panic(err)
	}
	return time.Unix(ts.Unix())
}

func TestRevocation(t *testing.T) {
	n := many(t)
	show := table{head: []string{"", "hosts", "50 %", "99 %", "all", "never", "lists fetched a second, at the beginning",
		"later, most"}}
	for _, r := range revocations(n) {
		withFleet(t, func(ctx context.Context, f *fleet) error {
			o, err := r.run(ctx, f)
			if err != nil {
				return err
			}
			slices.Sort(o.took)
			show.add(r.name, r.hosts, when(o.took, .5), when(o.took, .99), when(o.took, 1), o.never, o.first, o.most)
			return nil
		})
	}
	fmt.Printf("\nApprovals by a key are revoked, %d hosts\n\n%s", n, &show)
}

func TestReturn(t *testing.T) {
	n := many(t)
	show := table{head: []string{"the network is there after the daemon", "50 %", "all"}}
	for _, after := range []time.Duration{0, 20 * time.Second, time.Minute} {
		withFleet(t, func(ctx context.Context, f *fleet) error {
			took, err := f.returning(ctx, n, after)
			slices.Sort(took)
			show.add(after, when(took, .5), when(took, 1))
			return err
		})
	}
	fmt.Printf("\nHosts that return after a week, %d\n\n%s", n, &show)
}

func TestPushes(t *testing.T) {
	n := many(t)
	show := table{head: []string{"the file", "starts", "refused", "did not run when all hosts had the fix", "50 %", "99 %",
		"all"}}
	for _, p := range pushes(n) {
		withFleet(t, func(ctx context.Context, f *fleet) error {
			o, err := p.run(ctx, f)
			if err != nil {
				return err
			}
			slices.Sort(o.late)
			show.add(p.name, o.starts, o.refused, o.waiting, when(o.late, .5), when(o.late, .99), when(o.late, 1))
			return nil
		})
	}
	fmt.Printf("\nA faulty file for %d hosts\n\n%s", n, &show)
}

func TestConsul(t *testing.T) {
	n := many(t)
	bin := os.Getenv("CONSUL_BIN")
	if bin == "" {
		t.Skip("CONSUL_BIN is not set; `make fleet` sets it")
	}
	m, err := measureConsul(t.Context(), bin, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nA host's catalog asks its agent %.3g times a minute, and %.3g times while that is away.\n"+
		"%d services are there after %s, and %s after an agent that has forgotten all answers.\n"+
		"A registration takes a server %s of a processor, a reading %s.\n", m.perMinute, m.away, services,
		short(m.first), short(m.back), m.write.Round(time.Microsecond), m.read.Round(time.Microsecond))
	show := table{head: []string{"the servers", "hosts", "registrations", "within", "busy for"}}
	for _, c := range []struct {
		name string
		each float64
	}{
		{"have kept all, nothing has changed", 0},
		{"have kept all, a tenth of the services has changed", services / 10},
		{"have lost all", services},
	} {
		for _, hosts := range []int{max(1, n/100), max(1, n/10), n} {
			within, took := m.load(hosts, c.each)
			show.add(c.name, hosts, int(c.each*float64(hosts)), within, took)
		}
	}
	fmt.Printf("\nConsul's servers are back, hosts with %d services each\n\n%s", services, &show)
}

// when is when a share of a sorted list was there, as tables have it.
func when(list []time.Duration, part float64) string {
	if len(list) == 0 {
		return ""
	}
	return short(list[max(0, int(part*float64(len(list))+0.999)-1)])
}
