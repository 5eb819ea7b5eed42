package fleet

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/layout"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/internal/testimage"
)

// A wire is shared: so many images take as long as it takes for their bytes, and hosts that ask for a part of
// what they lack are sent no byte twice, whatever breaks meanwhile.
func TestSmallRollouts(t *testing.T) {
	const n = 20
	all := float64(n * imageBytes)
	for _, r := range []rollout{
		{name: "at once", hosts: n, rate: gigabit},
		{name: "in waves", hosts: n, rate: gigabit, waves: 5},
		{name: "limited", hosts: n, rate: gigabit, most: 8, retryAfter: time.Second, timeout: time.Hour},
		{name: "refuses", hosts: n, rate: gigabit, from: 10 * time.Second, to: 2 * time.Minute, trouble: refusing},
		{name: "busy", hosts: n, rate: gigabit, from: 10 * time.Second, to: 2 * time.Minute, trouble: busy},
		{name: "hangs", hosts: n, rate: gigabit, from: 10 * time.Second, to: 4 * time.Minute, trouble: hanging},
		{name: "slow", hosts: n, rate: gigabit, from: 10 * time.Second, to: 2 * time.Minute, slow: gigabit / 100},
	} {
		t.Run(r.name, func(t *testing.T) {
			o := simulate(t, assumed, r)
			least := time.Duration(all / r.rate * float64(time.Second))
			if o.at(1) < least || r.to == 0 && o.at(1) > least+time.Minute || len(o.took) != n {
				t.Errorf("%d hosts after %s, at least it is %s", len(o.took), o.at(1), least)
			}
			if float64(o.registry.sent) != all {
				t.Errorf("the registry sent %d bytes, all images have %.0f", o.registry.sent, all)
			}
			if r.to != 0 && o.at(1) < r.to {
				t.Errorf("all is there after %s, while the registry is not", o.at(1))
			}
			if r.most != 0 && (o.registry.peak > r.most || o.registry.refused == 0) {
				t.Errorf("%d transfers at once, %d refused", o.registry.peak, o.registry.refused)
			}
		})
	}
}

// With a mirror for ten hosts the registry sends the image twice for twenty; where mirrors die, it gives what is
// missing, and no start fails.
func TestSmallMirrors(t *testing.T) {
	r := rollout{hosts: 20, rate: gigabit, mirrors: 2}
	o := simulate(t, assumed, r)
	if o.registry.sent != 2*imageBytes || o.tries != r.hosts || o.mirror.sent != 10*imageBytes {
		t.Errorf("the registry sent %d bytes, a mirror %d, in %d tries", o.registry.sent, o.mirror.sent, o.tries)
	}
	r.ofMirrors, r.from, r.to = true, 10*time.Second, 24*time.Hour
	for _, r.trouble = range []state{refusing, hanging} {
		o := simulate(t, assumed, r)
		if o.tries != r.hosts || len(o.took) != r.hosts || o.registry.sent <= 2*imageBytes {
			t.Errorf("%d hosts in %d tries, the registry sent %d bytes", len(o.took), o.tries, o.registry.sent)
		}
	}
}

// served is a real registry without a network, which cuts off the layers of a first pull in the middle.
type served struct {
	srv *registry.Server
	mu  sync.Mutex
	cut bool
	saw []string
}

func (s *served) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saw = append(s.saw, req.Method+" "+req.URL.Path+" "+req.Header.Get("Range"))
	layer := s.cut && strings.Contains(req.URL.Path, "/blobs/")
	if layer && req.Header.Get("Range") != "" {
		return reply(req, http.StatusForbidden, http.NoBody, 0), nil
	}
	rec := httptest.NewRecorder()
	s.srv.ServeHTTP(rec, req)
	resp := rec.Result()
	if resp.Request = req; layer && resp.ContentLength > 10_000 {
		resp.Body = io.NopCloser(io.MultiReader(io.LimitReader(resp.Body, resp.ContentLength/2), ended{}))
	}
	return resp, nil
}

type ended struct{}

func (ended) Read([]byte) (int, error) {
	return 0, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
}

// What stands in for a store asks a registry for what the real one does, also for the rest of what broke off.
func TestStandInAsksAsTheStore(t *testing.T) {
	dir := t.TempDir()
	srv, err := registry.NewServer(dir+"/images", registry.ServerOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, srv.Close()) })
	file, err := testimage.Write(t.Context(), dir, testimage.Spec{Name: "web", Cmd: []string{"x"}})
	must(t, err)
	from, err := registry.ParseLocation("oci-archive:" + file)
	must(t, err)
	to, err := registry.ParseLocation(origin + "/team/web:1.0")
	must(t, err)
	ask := func(store registry.Keeper) []string {
		t.Helper()
		w := &served{srv: srv}
		c, err := registry.NewClient(registry.Config{Apart: &registry.Apart{Wire: w}})
		must(t, err)
		_, err = c.Copy(t.Context(), from, to, registry.CopyOptions{})
		must(t, err)
		w.saw, w.cut = nil, true
		if _, err = c.Pull(t.Context(), store, to.Ref, registry.PullOptions{}); err == nil {
			t.Error("a layer that was cut off is there")
		}
		w.cut = false
		for range 2 {
			_, err = c.Pull(t.Context(), store, to.Ref, registry.PullOptions{})
			must(t, err)
		}
		return w.saw
	}
	real, err := layout.OpenStore(dir+"/store", image.Limits{})
	must(t, err)
	t.Cleanup(func() { must(t, real.Close()) })
	want, got := ask(real), ask(newStore())
	// The stand-in keeps no config.
	layers := func(list []string) (out []string) {
		for _, s := range list {
			if strings.HasSuffix(s, "-") {
				out = append(out, s)
			}
		}
		return out
	}
	if len(layers(want)) < 2 || !slices.Equal(layers(want), layers(got)) || len(want) > len(got) ||
		len(got) > len(want)+2 {
		t.Errorf("the store asks\n%s\nand what stands in for it\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What is revoked starts nowhere after five minutes, which is how often lists are fetched, but on hosts that are cut
// off: there it ends with the age of the list, or with keep not at all.
func TestSmallRevocations(t *testing.T) {
	for _, c := range []struct {
		revocation
		least, most time.Duration
		never       int
	}{
		{revocation{hosts: 5, look: 10 * time.Second, reissued: 24 * time.Hour, give: time.Hour}, 0,
			5*time.Minute + 10*time.Second, 0},
		{revocation{hosts: 3, cut: true, more: "  max_age = \"1h\"\n", reissued: 15 * time.Minute, look: time.Minute,
			give: 3 * time.Hour}, 40 * time.Minute, time.Hour + time.Minute, 0},
		{revocation{hosts: 3, cut: true, more: "  when_unreachable = \"keep\"\n", reissued: 24 * time.Hour,
			look: time.Hour, give: 3 * time.Hour}, 0, 0, 3},
	} {
		withFleet(t, func(ctx context.Context, f *fleet) error {
			o, err := c.run(ctx, f)
			if err != nil {
				return err
			}
			for _, d := range o.took {
				if d < c.least || d > c.most {
					t.Errorf("it starts until %s", d)
				}
			}
			if o.never != c.never || len(o.took)+o.never != c.hosts {
				t.Errorf("it starts for ever on %d hosts of %d", o.never, c.hosts)
			}
			return nil
		})
	}
}

// A host that was away for a week starts at once what is approved, once it has a network.
func TestSmallReturn(t *testing.T) {
	withFleet(t, func(ctx context.Context, f *fleet) error {
		took, err := f.returning(ctx, 3, 0)
		if len(took) != 3 || slices.Max(took) > 10*time.Second {
			t.Errorf("tasks start after %v", took)
		}
		return err
	})
}

// A file that cannot be read changes nothing; one that denies refuses starts until it is mended.
func TestSmallPushes(t *testing.T) {
	p := push{hosts: 5, within: 2 * time.Minute, fixed: 10 * time.Minute, every: 3 * time.Minute, text: broken}
	withFleet(t, func(ctx context.Context, f *fleet) error {
		o, err := p.run(ctx, f)
		if o.refused != 0 || o.starts < p.hosts {
			t.Errorf("unreadable: %d of %d starts were refused", o.refused, o.starts)
		}
		p.text = denying
		o2, err2 := p.run(ctx, f)
		if o2.refused == 0 || o2.refused == o2.starts || len(o2.late) != o2.refused {
			t.Errorf("denying: %d of %d starts were refused, %d ran in the end", o2.refused, o2.starts, len(o2.late))
		}
		return errors.Join(err, err2)
	})
}

// A plot is a document that browsers read, and has a line for each curve.
func TestPlot(t *testing.T) {
	text := plot("a <b>", time.Hour, []curve{{"one & two", []time.Duration{time.Minute, time.Hour}, 2}, {"none", nil, 2}})
	lines := 0
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "path" {
			for _, a := range e.Attr {
				if a.Name.Local == "fill" && a.Value == "none" {
					lines++
				}
			}
		}
	}
	if lines != 2 {
		t.Errorf("%d lines", lines)
	}
}

// A host as a mirror gives what its limit lets it, and the registry the rest; one that has nothing yet is no help, and
// none is in the way.
func TestSmallPeers(t *testing.T) {
	r := rollout{hosts: 20, rate: gigabit, mirrors: 2, peers: true}
	if o := simulate(t, assumed, r); o.registry.sent != 2*imageBytes || o.tries != r.hosts {
		t.Errorf("the registry sent %d bytes in %d tries", o.registry.sent, o.tries)
	}
	crowd := rollout{hosts: 100, rate: gigabit, mirrors: 1, peers: true, transfers: 100, timeout: time.Hour}
	o := simulate(t, assumed, crowd)
	if o.mirror.peak != crowd.transfers || o.mirror.refused == 0 || len(o.took) != crowd.hosts {
		t.Errorf("%d transfers of a mirror at once, %d refused, %d hosts", o.mirror.peak, o.mirror.refused, len(o.took))
	}
	if o.registry.sent <= imageBytes || o.registry.sent+o.mirror.sent != 101*imageBytes {
		t.Errorf("the registry sent %d bytes, the mirror %d", o.registry.sent, o.mirror.sent)
	}
	r.late = true
	if o := simulate(t, assumed, r); o.registry.sent != 22*imageBytes || len(o.took) != r.hosts {
		t.Errorf("the registry sent %d bytes", o.registry.sent)
	}
	r.waves = 2
	if o := simulate(t, assumed, r); o.registry.sent > 6*imageBytes || len(o.took) != r.hosts {
		t.Errorf("in waves the registry sent %d bytes", o.registry.sent)
	}
}
