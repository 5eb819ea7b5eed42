// Package soak works a host for as long as it is told to: tasks begin and end, images are built and pulled, and what can
// happen to a host happens. In the end nothing is left, nothing was lost, and the daemon holds what it held at first.
package soak

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/testagent"
	"github.com/freejail/freejail/internal/testhost"
	"github.com/freejail/freejail/internal/testimage"
	"github.com/freejail/freejail/internal/testnfs"
)

// timeVariable is for how long rounds are begun, as 8h, or how many there are, as 12; without it there are none.
// seedVariable has the same be chosen again: what happens at the same time is still another matter.
const timeVariable, seedVariable = "FREEJAIL_SOAK", "FREEJAIL_SOAK_SEED"

// Of a round. Every so many rounds all that lives ends, and the host is compared with what it was at first.
const workers, worksEach, clearEvery = 4, 6, 5

// room is how many bytes the file system of the state directory has.
const room = 256 << 20

type soak struct {
	host
	ctx      context.Context
	seed     uint64
	r        *rand.Rand // of the rounds; workers have their own
	round    int
	fault    *fault
	consul   *testagent.Consul // nil without one
	nomad    *nomadHost        // nil without one
	registry *registryHost
	roots    *testnfs.Server // nil without one
	base     string          // an archive with the programs

	mu      sync.Mutex
	records []*record
	lives   []*life
	pushed  []pushed
	ids     atomic.Int64
	done    atomic.Int32 // works
	excused atomic.Int32
	faults  atomic.Int32 // times that the disk became full and had room again: odd while it is full
	busy    atomic.Bool

	event          uint64 // the last that was seen
	lastGeneration string
	samples        []sample
	first          []string // what the host had when nothing ran

}

// pushed is an image of the registry.
type pushed struct{ ref, digest, tag string }

const configuration = `
state_dir = %q
socket    = %q
registry %q {
  plain_http = true
}
network "lan" {
  mode    = "nat"
  subnet4 = "10.188.0.0/22"
}
permit {
  networks  = ["lan"]
  publish   = ["*:20000-24999"]
  ports     = ["1024-65535"]
  addresses = ["0.0.0.0/0"]
  mounts    = ["nullfs:%s:rw"]
  services  = ["soak"]
}
`

func TestSoak(t *testing.T) {
	text := os.Getenv(timeVariable)
	if text == "" || text == "0" {
		t.Skipf("%s is not set; `make soak` sets it", timeVariable)
	}
	goOn, err := untilEnd(text)
	if err != nil {
		t.Fatalf("%s: %v", timeVariable, err)
	}
	s := newSoak(t)
	t.Logf("%s=%s %s=%d", timeVariable, text, seedVariable, s.seed)
	begin := time.Now()
	if err := s.warmUp(); err != nil {
		t.Fatalf("before the first round: %v\n%s", err, s.logTail())
	}
	for goOn(s.round, time.Since(begin)) {
		began := time.Now()
		err := s.oneRound()
		t.Logf("round %d, fault %q: %v", s.round, s.fault.name, time.Since(began).Round(time.Millisecond))
		if err != nil {
			t.Errorf("round %d, fault %q, seed %d: %v\n%s", s.round, s.fault.name, s.seed,
				err, s.logTail())
			break
		}
	}
	t.Logf("%d rounds in %v, %d tasks were asked for, %d works failed as they may by a fault\n%s", len(s.samples),
		time.Since(begin).Round(time.Second), s.ids.Load(), s.excused.Load(), table(s.samples))
	for _, what := range grown(s.samples) {
		t.Error(what)
	}
	if !t.Failed() {
		if err := s.clear(); err != nil {
			t.Errorf("at the end: %v\n%s", err, s.logTail())
		}
	}
	if err := s.faultless(); err != nil {
		t.Error(err)
	}
}

// untilEnd tells after so many rounds and so much time whether there is another one.
func untilEnd(text string) (func(rounds int, d time.Duration) bool, error) {
	if n, err := strconv.Atoi(text); err == nil {
		return func(rounds int, _ time.Duration) bool { return rounds < n }, nil
	}
	limit, err := time.ParseDuration(text)
	return func(_ int, d time.Duration) bool { return d < limit }, err
}

// newSoak is a host that is taken away with the test.
func newSoak(t *testing.T) *soak {
	t.Helper()
	if os.Geteuid() != 0 || os.Getenv("FREEJAIL_BIN") == "" || os.Getenv("FREEJAIL_BUILD_BIN") == "" {
		t.Skip("tasks need root, and FREEJAIL_BIN and FREEJAIL_BUILD_BIN (`make test` sets them)")
	}
	seed := rand.Uint64() >> 32
	if text := os.Getenv(seedVariable); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedVariable, err)
		}
	}
	dir, err := os.MkdirTemp("", "fjs")
	if err != nil {
		t.Fatal(err)
	}
	s := &soak{ctx: context.Background(), seed: seed, r: rand.New(rand.NewPCG(seed, 0)), fault: faults[0]}
	s.dir = dir
	t.Cleanup(func() { s.takeAway(t) })
	uplink(t)
	for _, d := range []string{"small", "volumes", "build", "tmp"} {
		if err := os.Mkdir(s.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := mount.Do(mount.Mount{Type: "tmpfs", Source: "tmpfs", Target: s.path("small"),
		Options: []string{fmt.Sprintf("size=%d", room)}}); err != nil {
		t.Fatal(err)
	}
	if s.registry, err = newRegistry(s.path("registry")); err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf(configuration, s.path("small/state"), s.path("sock"), s.registry.name, s.path("volumes"))
	if bin := os.Getenv("CONSUL_BIN"); bin != "" {
		if s.consul, err = testagent.NewConsul(bin, s.path("consul.log")); err != nil {
			t.Fatal(err)
		}
		conf += fmt.Sprintf("consul {\n  address   = %q\n  advertise = \"127.0.0.1\"\n}\n", s.consul.Addr)
	}
	more, err := s.serveRoots()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("freejail.hcl"), []byte(conf+more), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Client = client.New(s.path("sock"))
	return s
}

// takeAway ends all that runs, and wants nothing of it to be left.
func (s *soak) takeAway(t *testing.T) {
	var errs []error
	if s.nomad != nil {
		errs = append(errs, s.nomad.End(syscall.SIGINT))
	}
	if s.cmd != nil {
		tasks, err := s.Tasks(s.ctx)
		errs = append(errs, err)
		for _, task := range tasks {
			errs = append(errs, s.Destroy(s.ctx, task.Spec.ID, true))
		}
		errs = append(errs, s.end(syscall.SIGTERM))
	}
	if s.consul != nil {
		errs = append(errs, s.consul.End(syscall.SIGINT))
	}
	if s.roots != nil {
		errs = append(errs, s.roots.Close())
	}
	if s.registry != nil {
		errs = append(errs, s.registry.web.Close(), s.registry.server.Close())
	}
	left, err := mount.Below(s.path("small/state"))
	errs = append(errs, err)
	for _, m := range left {
		errs = append(errs, fmt.Errorf("left: the mount %s", m.Target))
	}
	found, err := containers()
	if len(found) > 0 {
		err = errors.Join(err, fmt.Errorf("left: %q", found))
	}
	if err := errors.Join(append(errs, err, mount.UnmountUnder(s.dir), os.RemoveAll(s.dir))...); err != nil {
		t.Error(err)
	}
}

// warmUp is a round without a fault, after which the host is looked at.
func (s *soak) warmUp() error {
	if s.consul != nil {
		if err := s.consul.Start(s.ctx); err != nil {
			return err
		}
	}
	if err := s.start(); err != nil {
		return err
	}
	if err := errors.Join(s.images(), s.export()); err != nil {
		return err
	}
	if err := s.joinNomad(); err != nil {
		return err
	}
	if err := errors.Join(s.live(), s.build()); err != nil {
		return err
	}
	// What the first pull makes is there from then on.
	if _, err := s.Pull(s.ctx, client.PullRequest{Ref: s.pushed[0].ref}, nil); err != nil {
		return err
	}
	if err := errors.Join(s.churn(workers, worksEach), s.settle()); err != nil {
		return err
	}
	if err := s.endAll(); err != nil {
		return err
	}
	var err error
	if s.first, err = s.everything(); err != nil {
		return err
	}
	return s.live()
}

// images are those that the host has all the time.
func (s *soak) images() error {
	for name, manifest := range map[string]string{plain: "", serving: `{"schemaVersion":1,"ports":[{"name":"http",` +
		`"port":8080,"service":{"name":"soak"}}]}`} {
		path, err := testimage.Write(s.ctx, s.dir, testimage.Spec{Name: name, Manifest: manifest,
			Files: map[string]string{"/data/empty": ""}, Gzip: true})
		if err != nil {
			return err
		}
		if _, err := s.Import(s.ctx, client.ImportRequest{Path: path, Name: name}, nil); err != nil {
			return err
		}
		if name == plain {
			s.base = path
		}
	}
	return nil
}

// build makes an image for the round, which workers pull.
func (s *soak) build() error {
	image, err := s.push(fmt.Sprintf("r%d", s.round))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pushed = append(s.pushed, image)
	return err
}

// push builds an image with a file of its own and pushes it.
func (s *soak) push(tag string) (pushed, error) {
	p := pushed{ref: s.registry.name + "/soak:" + tag, tag: fmt.Sprintf("%s %d", tag, s.r.Uint64())}
	recipe := fmt.Sprintf("FROM %s\nCOPY tag /tag\n", s.base)
	if err := errors.Join(os.WriteFile(s.path("build/tag"), []byte(p.tag), 0o644),
		os.WriteFile(s.path("build/Jailfile"), []byte(recipe), 0o644)); err != nil {
		return p, err
	}
	out, err := s.tool("build", "--quiet", "--cache", s.path("cache"), "-t", "soak", "-o", s.path("built.tar"),
		s.path("build"))
	if err != nil {
		return p, err
	}
	d, err := digest.Parse(strings.TrimSpace(out))
	if err != nil {
		return p, fmt.Errorf("freejail-build tells %q: %w", out, err)
	}
	p.digest = d.String()
	_, err = s.tool("push", "--progress", "none", "--plain-http", s.registry.name, s.path("built.tar"), p.ref)
	return p, err
}

// tool runs freejail-build.
func (s *soak) tool(args ...string) (string, error) {
	cmd := exec.Command(os.Getenv("FREEJAIL_BUILD_BIN"), args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+s.path("tmp"))
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("freejail-build %s: %w: %s", args[0], err, said.String())
	}
	return string(out), err
}

// oneRound has work go on beside a fault, and finds all in order after.
func (s *soak) oneRound() error {
	s.round++
	s.choose()
	if err := s.build(); err != nil {
		return err
	}
	s.busy.Store(true)
	worked := make(chan error, 1)
	go func() {
		err := s.churn(workers, worksEach)
		s.busy.Store(false)
		worked <- err
	}()
	err := s.fault.run(s)
	if err := errors.Join(err, <-worked); err != nil {
		return err
	}
	if err := await("the daemon to be healthy", func() error {
		info, err := s.Info(s.ctx)
		if err == nil && !info.Healthy {
			err = errors.New(info.Reason)
		}
		return err
	}); err != nil {
		return err
	}
	for _, l := range s.lives {
		if err := s.check(l); err != nil {
			return err
		}
	}
	for _, then := range []func() error{s.settle, s.nomadGoesOn, s.forget, s.onlyLives, s.inConsul, s.measure} {
		if err := then(); err != nil {
			return err
		}
	}
	if s.round%clearEvery != 0 {
		return s.renew(false)
	}
	return errors.Join(s.clear(), s.live())
}

// choose takes the next fault: all that can be here come before one comes again. Daemons live for long now and then,
// so that what one holds can be compared.
func (s *soak) choose() {
	var can []*fault
	for _, f := range faults {
		if f.with == nil || f.with(s) {
			can = append(can, f)
		}
	}
	long := s.round/50%2 == 1
	order := rand.New(rand.NewPCG(s.seed, uint64(s.round/len(can)))).Perm(len(can))
	s.fault = can[order[s.round%len(can)]]
	if long && (s.fault.excused != nil || s.fault.name == "upgrade" || s.fault.name == "disk") {
		s.fault = faults[0]
	}
}

// idle tells that the works of the round are done.
func (s *soak) idle() bool { return !s.busy.Load() }

// forget removes the images of the round, and what is unpacked of them.
func (s *soak) forget() error {
	for _, p := range s.pushed {
		if err := s.RemoveImage(s.ctx, p.ref); err != nil && !client.IsNotFound(err) {
			return err
		}
	}
	s.pushed = nil
	r, err := s.GC(s.ctx, client.GCRequest{})
	if err == nil && len(r.Problems) > 0 {
		err = fmt.Errorf("gc tells of %q", r.Problems)
	}
	return err
}

// onlyLives wants nothing on the host but what lives.
func (s *soak) onlyLives() error {
	return await("nothing to be there but what lives", func() error {
		tasks, err := s.Tasks(s.ctx)
		if err != nil {
			return err
		}
		known := map[string]bool{}
		for _, t := range tasks {
			known[t.Key] = true
			if !s.isLife(t) {
				err = errors.Join(err, fmt.Errorf("the task %s is %s %s", t.Key, t.State, t.Left))
			}
		}
		if len(tasks) != len(s.lives)+s.nomadTasks() {
			err = errors.Join(err, fmt.Errorf("there are %d tasks", len(tasks)))
		}
		for _, sub := range []string{"tasks", "storage/roots"} {
			entries, readErr := os.ReadDir(s.path("small/state/" + sub))
			err = errors.Join(err, readErr)
			for _, e := range entries {
				if !known[e.Name()] {
					err = errors.Join(err, fmt.Errorf("%s/%s is there", sub, e.Name()))
				}
			}
		}
		sets, setsErr := s.Rulesets(s.ctx)
		for _, set := range sets {
			for _, holder := range set.Holders {
				if !known[holder] {
					setsErr = errors.Join(setsErr, fmt.Errorf("ruleset %d is held by %s", set.ID, holder))
				}
			}
		}
		found, contErr := containers()
		for _, c := range found {
			if !slices.ContainsFunc(s.lives, func(l *life) bool { return strings.Contains(c, l.id) }) {
				contErr = errors.Join(contErr, fmt.Errorf("%s is there", c))
			}
		}
		return errors.Join(err, setsErr, contErr)
	})
}

// isLife tells whether a task is one that is to live.
func (s *soak) isLife(t client.Task) bool {
	return t.Spec.Owner == "nomad" || slices.ContainsFunc(s.lives, func(l *life) bool { return l.id == t.Spec.ID })
}

// clear ends all that lives, and wants the host to be as it was at first.
func (s *soak) clear() error {
	if err := errors.Join(s.endJob(), s.endAll(), s.onlyLives(), s.inConsul()); err != nil {
		return err
	}
	return await("the host to be as at first", func() error {
		now, err := s.everything()
		for _, line := range now {
			if !slices.Contains(s.first, line) {
				err = errors.Join(err, fmt.Errorf("new: %s", line))
			}
		}
		for _, line := range s.first {
			if !slices.Contains(now, line) {
				err = errors.Join(err, fmt.Errorf("gone: %s", line))
			}
		}
		return err
	})
}

// endAll ends what lives, and forgets images.
func (s *soak) endAll() error { return errors.Join(s.renew(true), s.settle(), s.forget()) }

// everything is what the host has of freejail's, a line each.
func (s *soak) everything() ([]string, error) {
	out, err := testhost.Networks("10.188.")
	mounts, mountErr := mount.Below(s.path("small"))
	for _, m := range mounts {
		out = append(out, "mount "+m.Type+" on "+m.Target)
	}
	files, filesErr := s.files()
	return append(out, files...), errors.Join(err, mountErr, filesErr)
}

// files are those of the state directory but for what is in images that are unpacked.
func (s *soak) files() (out []string, err error) {
	state := s.path("small/state")
	err = filepath.WalkDir(state, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(state, p)
		if chain, is := strings.CutPrefix(rel, "storage/fresh/"); is {
			if _, err := os.Lstat(filepath.Join(state, "storage/chains", chain)); err == nil {
				return nil // the note goes by itself when its tree has settled
			}
		}
		out = append(out, "file "+rel)
		if d.IsDir() && strings.Count(rel, "/") == 2 && strings.HasPrefix(rel, "storage/") {
			return fs.SkipDir
		}
		return err
	})
	return out, err
}

// measure adds a sample. The daemon is asked small questions until garbage was collected twice: what it tells then is
// what it keeps.
func (s *soak) measure() error {
	for last, fell := uint64(0), 0; ; {
		info, err := s.Info(s.ctx)
		if err != nil {
			return err
		}
		if info.MemoryBytes < last-last/8 {
			fell++
		}
		if last = info.MemoryBytes; fell < 2 {
			continue
		}
		rss, fds, tasks, err := process(info.PID)
		names, filesErr := s.files()
		running, metricErr := s.metric("freejail_daemon_goroutines")
		s.samples = append(s.samples, sample{round: s.round, fault: s.fault.name, life: fmt.Sprint(s.host.lives.Load()),
			generation: info.Generation, values: [figures]float64{heap: float64(info.MemoryLiveBytes) / 1024, resident: rss,
				descriptors: fds, threads: tasks, goroutines: running, files: float64(len(names))}})
		return errors.Join(err, filesErr, metricErr)
	}
}

// metric is the value of one that has no labels.
func (s *soak) metric(name string) (v float64, err error) {
	var out strings.Builder
	if err := s.Metrics(s.ctx, &out); err != nil {
		return 0, err
	}
	for line := range strings.Lines(out.String()) {
		if text, is := strings.CutPrefix(line, name+" "); is {
			return strconv.ParseFloat(strings.TrimSpace(text), 64)
		}
	}
	return 0, fmt.Errorf("there is no metric %s", name)
}
