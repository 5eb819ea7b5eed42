package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testimage"
)

// Images of the host: one with a port and a service, one without.
const serving, plain = "soak", "plain"

// prefix is that of the ids of all tasks.
var prefix = fmt.Sprintf("fjs%d", os.Getpid())

// record is what is known of a task that may have been asked for.
type record struct {
	id      string
	breaks  int32 // of the daemon when it was asked for
	faults  int32 // of the host then
	started bool  // it was told that it runs
	ending  bool  // its removal was asked for
	exited  bool  // its end was told
	code    int   // with which it ends by itself or by SIGTERM
}

// worker starts and ends tasks, and asks for this and that.
type worker struct {
	*soak
	r *rand.Rand
}

// works are what workers do, each with how often.
var works = []struct {
	name   string
	weight int
	run    func(*worker) error
}{
	{"short task", 4, (*worker).short},
	{"stopped task", 2, (*worker).stopped},
	{"killed task", 1, (*worker).killed},
	{"task in a network", 2, (*worker).networked},
	{"root over NFS", 2, (*worker).remote},
	{"volume", 2, (*worker).volume},
	{"refusal", 2, (*worker).refusal},
	{"exec", 2, (*worker).exec},
	{"pulled image", 2, (*worker).pulled},
	{"questions", 2, (*worker).questions},
	{"gc", 1, (*worker).gc},
	{"reload", 1, func(w *worker) error { _, err := w.Reload(w.ctx); return err }},
}

// churn has workers do n works each, side by side.
func (s *soak) churn(workers, n int) error {
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for i := range workers {
		w := &worker{s, rand.New(rand.NewPCG(s.seed, uint64(s.round*workers+i)))}
		wg.Go(func() {
			for range n {
				if errs[i] = w.one(); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// one is a work. An error that the fault of the round brings about is none, when the daemon answers again.
func (w *worker) one() error {
	sum := 0
	for _, k := range works {
		sum += k.weight
	}
	at := w.r.IntN(sum)
	for _, k := range works {
		if at -= k.weight; at >= 0 {
			continue
		}
		err := k.run(w)
		w.done.Add(1)
		if err == nil || client.IsNotFound(err) && w.collects() {
			return nil
		}
		if !w.fault.excuses(k.name, err) {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		w.excused.Add(1)
		return await("the daemon to be back", func() error { _, err := w.Info(w.ctx); return err })
	}
	panic("no work")
}

// spec is a task whose program is one of ours.
func (s *soak) spec(args ...string) (client.TaskSpec, *record) {
	r := &record{id: fmt.Sprintf("%s-%d", prefix, s.ids.Add(1)), breaks: s.breaks.Load(), faults: s.faults.Load()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = append(s.records, r)
	return client.TaskSpec{ID: r.id, Owner: "cli", Image: plain, Args: args}, r
}

// begin starts a task.
func (s *soak) begin(spec client.TaskSpec, r *record) (*client.Task, error) {
	t, err := s.Start(s.ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("start of %s: %w", r.id, err)
	}
	r.started = true
	if t.State != client.Running && t.State != client.Exited || t.ID != r.id {
		return nil, fmt.Errorf("the start of %s tells of %s, %s", r.id, t.ID, t.State)
	}
	return t, nil
}

// undisturbed tells that no daemon was away, and that the host had room, since the task was asked for.
func (s *soak) undisturbed(r *record) bool {
	return r.breaks == s.breaks.Load() && r.faults == s.faults.Load() && r.faults%2 == 0
}

// ended wants an exit to be the real one: with a code, or by a signal. Where the daemon was another one meanwhile, the
// system may not have been able to tell.
func (s *soak) ended(r *record, e *client.Exit, signal int) error {
	r.exited = true
	if !e.Known && r.breaks != s.breaks.Load() {
		return nil
	}
	if want := r.code; !e.Known || e.Signal != signal || signal == 0 && e.Code != want || e.OOM || e.Disk || e.Host {
		return fmt.Errorf("%s ended as %+v, want code %d, signal %d", r.id, *e, want, signal)
	}
	return nil
}

// remove forgets a task, which then is not there, or on a slow host is being removed.
func (s *soak) remove(r *record) error {
	r.ending = true
	if err := s.Destroy(s.ctx, r.id, true); err != nil {
		return fmt.Errorf("removal of %s: %w", r.id, err)
	}
	_, err := s.Task(s.ctx, r.id)
	if client.IsNotFound(err) || err != nil && strings.Contains(err.Error(), "it is being removed; the daemon tries again") {
		return nil
	}
	return fmt.Errorf("%s was removed, and the daemon tells of it: %w", r.id, err)
}

// persist makes a call again where the daemon's upgrade or its end has broken it off, as commands do that wait.
func persist(call func() error) error {
	var err error
	for range 10 {
		if err = call(); !errors.Is(err, client.ErrBrokenOff) {
			return err
		}
	}
	return err
}

// wait is how a task ended, when it has.
func (s *soak) wait(id string) (e *client.Exit, err error) {
	err = persist(func() error {
		e, err = s.Wait(s.ctx, id)
		return err
	})
	return e, err
}

// output is all that the daemon has of a task's.
func (s *soak) output(id string) (string, error) {
	var out bytes.Buffer
	err := persist(func() error {
		out.Reset()
		return s.Logs(s.ctx, id, "stdout", false, -1, &out)
	})
	return out.String(), err
}

func (w *worker) short() error {
	n, code := 1+w.r.IntN(300), w.r.IntN(100)
	spec, r := w.spec("lines", strconv.Itoa(n), strconv.Itoa(code))
	r.code = code
	if _, err := w.begin(spec, r); err != nil {
		return err
	}
	return w.wrote(r, n)
}

// wrote wants a task to end by itself when it has written n lines, and removes it.
func (w *worker) wrote(r *record, n int) error {
	text, err := w.said(r)
	if err != nil {
		return err
	}
	if last, err := contiguous(text, false); w.undisturbed(r) && (err != nil || last != n) {
		return fmt.Errorf("%s wrote %d lines, its log has %d: %v", r.id, n, last, err)
	}
	return w.remove(r)
}

// counting starts a task that goes on until it is told to end, and returns when it has written: it takes signals then.
// Where a fault may have lost that it is not ready.
func (w *worker) counting() (r *record, ready bool, err error) {
	var spec client.TaskSpec
	spec, r = w.spec("count", "0")
	r.code = w.r.IntN(100)
	spec.Args[1] = strconv.Itoa(r.code)
	if _, err := w.begin(spec, r); err != nil {
		return r, false, err
	}
	err = await("a line of "+r.id, func() error {
		text, err := w.output(r.id)
		if ready = strings.HasPrefix(text, "line 1\n"); err == nil && !ready && w.undisturbed(r) {
			return fmt.Errorf("it wrote %q", text)
		}
		return final(err)
	})
	return r, ready, err
}

func (w *worker) stopped() error {
	r, ready, err := w.counting()
	if err != nil {
		return err
	}
	if !ready {
		return w.remove(r)
	}
	e, err := w.Stop(w.ctx, r.id, client.StopRequest{Timeout: client.Duration(4 * time.Minute)})
	if err != nil {
		return err
	}
	if err := w.ended(r, e, 0); err != nil {
		return err
	}
	text, err := w.output(r.id)
	if err != nil {
		return err
	}
	if _, err := contiguous(text, false); w.undisturbed(r) && err != nil {
		return fmt.Errorf("the log of %s: %w", r.id, err)
	}
	return w.remove(r)
}

func (w *worker) killed() error {
	r, ready, err := w.counting()
	if err != nil {
		return err
	}
	if w.r.IntN(2) == 0 || !ready {
		return w.remove(r) // as it runs
	}
	e, err := w.Stop(w.ctx, r.id, client.StopRequest{Signal: "SIGKILL"})
	if err == nil {
		err = w.ended(r, e, int(syscall.SIGKILL))
	}
	if err != nil {
		return err
	}
	return w.remove(r)
}

func (w *worker) networked() error {
	spec, r := w.spec("serve", "")
	spec.Args[1], spec.Network = r.id, "lan"
	port := w.port()
	spec.Publish = []client.Publication{{Address: "127.0.0.1", Port: port, To: 8080, Protocol: "tcp"}}
	if _, err := w.begin(spec, r); err != nil {
		return err
	}
	if err := w.serves(port, r); err != nil {
		return err
	}
	return w.remove(r)
}

// port is one of the host's that no task has.
func (s *soak) port() int { return 20000 + int(s.ids.Add(1)%5000) }

// serves wants the task to answer at its port of the host.
func (s *soak) serves(port int, r *record) error {
	return await(r.id+" to serve", func() error {
		text, err := get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err == nil && text != r.id {
			err = fmt.Errorf("%q answers", text)
		}
		if err != nil {
			if t, askErr := s.Task(s.ctx, r.id); askErr != nil || t.State != client.Running {
				return final(errors.Join(askErr, fmt.Errorf("it does not run: %+v", t), err))
			}
		}
		return err
	})
}

func get(url string) (string, error) {
	c := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(b), err
}

// said is what a task has written that ends by itself with its code.
func (w *worker) said(r *record) (string, error) {
	e, err := w.wait(r.id)
	if err == nil {
		err = w.ended(r, e, 0)
	}
	if err != nil {
		return "", err
	}
	return w.output(r.id)
}

// volume has two tasks, one after the other, write to one volume and read it.
func (w *worker) volume() error {
	dir := w.path("volumes/" + strconv.Itoa(int(w.ids.Add(1))))
	if err := os.Mkdir(dir, 0o777); err != nil {
		return err
	}
	want := fmt.Sprintf("kept %d\n", w.r.Uint64())
	if err := os.WriteFile(filepath.Join(dir, "text"), []byte(want), 0o644); err != nil {
		return err
	}
	spec, r := w.spec("cat", "/data/text")
	spec.Volumes = []client.Mount{{Source: dir, Target: "/data"}}
	if _, err := w.begin(spec, r); err != nil {
		return err
	}
	text, err := w.said(r)
	if err != nil {
		return err
	}
	if text != want && w.undisturbed(r) {
		return fmt.Errorf("%s has %q in its volume, want %q", r.id, text, want)
	}
	if err := w.remove(r); err != nil {
		return err
	}
	if b, err := os.ReadFile(filepath.Join(dir, "text")); err != nil || string(b) != want {
		return fmt.Errorf("the volume has %q, want %q: %w", b, want, err)
	}
	return os.RemoveAll(dir)
}

// refusal wants what cannot be to be said in its words, and nothing to be there after.
func (w *worker) refusal() error {
	spec, r := w.spec("lines", "1", "0")
	var words []string
	switch w.r.IntN(5) {
	case 0:
		spec.Wants.Allow, words = []string{"raw_sockets"}, []string{"allow.raw_sockets", "no permit covers it"}
	case 1:
		spec.Volumes = []client.Mount{{Source: "/etc", Target: "/data"}}
		words = []string{"mount nullfs:/etc:rw", "no permit covers it"}
	case 2:
		spec.Entrypoint, words = []string{"/bin/nothere"}, []string{"no such program", "/bin/nothere"}
	case 3:
		spec.User, words = "nobody-here", []string{"has no user", "nobody-here"}
	case 4:
		spec.Image, words = "nothere", []string{"nothere", "not on this host"}
	}
	_, err := w.Start(w.ctx, spec)
	if err == nil {
		return fmt.Errorf("%+v was started, want a refusal with %q", spec, words)
	}
	if w.fault.excuses("refusal", err) {
		return err
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			return fmt.Errorf("the refusal is %w, want one with %q", err, words)
		}
	}
	if _, err := w.Task(w.ctx, r.id); !client.IsNotFound(err) {
		return fmt.Errorf("%s was refused, and the daemon tells of it: %w", r.id, err)
	}
	return nil
}

// exec runs a program in a task that lives on.
func (w *worker) exec() error {
	w.mu.Lock()
	id := w.lives[w.r.IntN(len(w.lives))].id
	w.mu.Unlock()
	code := w.r.IntN(100)
	var out, said bytes.Buffer
	e, err := w.Exec(w.ctx, id, client.ExecSpec{Args: []string{testimage.Program, "lines", "3", strconv.Itoa(code)}},
		client.ExecIO{Stdout: &out, Stderr: &said})
	if err != nil {
		return fmt.Errorf("in %s: %w", id, err)
	}
	if e.Code != code || out.String() != "line 1\nline 2\nline 3\n" {
		return fmt.Errorf("exec in %s ended as %+v with %q %q, want code %d", id, *e, out.String(), said.String(), code)
	}
	return nil
}

// pulled runs an image of the registry, and wants it to be the one that was pushed.
func (w *worker) pulled() error {
	w.mu.Lock()
	if len(w.pushed) == 0 {
		w.mu.Unlock()
		return nil
	}
	image := w.pushed[w.r.IntN(len(w.pushed))]
	w.mu.Unlock()
	spec, r := w.spec("cat", "/tag")
	spec.Image = image.ref
	t, err := w.begin(spec, r)
	if err != nil {
		return err
	}
	if t.Digest != image.digest {
		return fmt.Errorf("%s runs %s of %s, which is %s", r.id, t.Digest, image.ref, image.digest)
	}
	text, err := w.said(r)
	if err != nil {
		return err
	}
	if text != image.tag && w.undisturbed(r) {
		return fmt.Errorf("%s has %q, want %q", image.ref, text, image.tag)
	}
	return w.remove(r)
}

func (w *worker) questions() error {
	tasks, err := w.Tasks(w.ctx)
	_, statsErr := w.AllStats(w.ctx)
	_, useErr := w.DiskUse(w.ctx)
	images, imagesErr := w.Images(w.ctx)
	metricsErr := w.Metrics(w.ctx, io.Discard)
	if err := errors.Join(err, statsErr, useErr, imagesErr, metricsErr); err != nil {
		return err
	}
	if len(tasks) < len(w.lives) || len(images) < 2 {
		return fmt.Errorf("the daemon tells of %d tasks and %d images, want %d and 2 at least", len(tasks), len(images),
			len(w.lives))
	}
	_, err = w.Doctor(context.WithoutCancel(w.ctx))
	return err
}

// collects tells of a round with gc. By that tasks go too which have ended, so that who waits for them may find none.
func (s *soak) collects() bool { return s.round%3 == 0 }

func (w *worker) gc() error {
	if !w.collects() {
		return nil
	}
	_, err := w.GC(w.ctx, client.GCRequest{})
	return err
}

// contiguous wants lines one after the other, from the first on, and returns the last. With gaps some may be
// missing, and be told of in their place.
func contiguous(text string, gaps bool) (last int, err error) {
	for line := range strings.Lines(text) {
		rest, is := strings.CutPrefix(line, "line ")
		n, numErr := strconv.Atoi(strings.TrimSuffix(rest, "\n"))
		switch {
		case !strings.HasSuffix(line, "\n"): // it is being written
		case (!is || numErr != nil) && gaps:
		case !is || numErr != nil:
			return last, fmt.Errorf("the line %q after %d", line, last)
		case n <= last || n != last+1 && !gaps:
			return last, fmt.Errorf("line %d is followed by %d", last, n)
		default:
			last = n
		}
	}
	return last, nil
}
