package soak

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testagent"
)

// fault is what comes over the host in a round, beside the work that goes on.
type fault struct {
	name string
	// run brings it about and takes it away again.
	run func(*soak) error
	// excuses tells whether a work may fail by an error, as of this fault; nil is that none may.
	excused func(work string, err error) bool
	// with tells whether it can be here.
	with func(*soak) bool
}

func (f *fault) excuses(work string, err error) bool { return f.excused != nil && f.excused(work, err) }

// away are errors of clients whose daemon was killed or ended.
func away(_ string, err error) bool {
	return errors.Is(err, client.ErrNoDaemon) || errors.Is(err, client.ErrBrokenOff) ||
		strings.Contains(err.Error(), "is being shut down")
}

// brokenOff are errors of what an upgrade does not wait for: it ends commands, and waits a second for other answers.
func brokenOff(work string, err error) bool {
	switch work {
	case "exec", "questions", "gc":
		return errors.Is(err, client.ErrBrokenOff) || strings.Contains(err.Error(), "the daemon is being upgraded")
	}
	return false
}

// otherDaemon are errors of where another daemon came, in one way or the other.
func otherDaemon(work string, err error) bool { return away(work, err) || brokenOff(work, err) }

// noRoom are errors of a full disk. What is there can be removed all the same.
func noRoom(_ string, err error) bool {
	return strings.Contains(err.Error(), syscall.ENOSPC.Error()) && !strings.Contains(err.Error(), "removal of")
}

var faults = []*fault{
	{name: "none", run: func(*soak) error { return nil }},
	{name: "kill", run: (*soak).kills, excused: away},
	{name: "upgrade", run: (*soak).upgrades, excused: brokenOff},
	{name: "restart", run: (*soak).restarts, excused: away},
	{name: "disk", run: (*soak).fullDisk, excused: func(work string, err error) bool {
		return noRoom(work, err) || brokenOff(work, err) // it has an upgrade too
	}},
	{name: "registry", run: (*soak).registryFails},
	{name: "consul", run: (*soak).consulAway, with: func(s *soak) bool { return s.consul != nil }},
	{name: "agent", run: (*soak).agentKilled, with: func(s *soak) bool { return s.nomad != nil }},
	{name: "plugin", run: (*soak).pluginKilled, with: func(s *soak) bool { return s.nomad != nil }},
	{name: "nfs", run: (*soak).nfsAway, excused: func(work string, err error) bool {
		return rootsAway(work, err) || otherDaemon(work, err)
	}, with: func(s *soak) bool { return s.roots != nil }},
	{name: "clock", run: (*soak).clockJumps, excused: otherDaemon,
		with: func(*soak) bool { return os.Getenv("FREEJAIL_SOAK_CLOCK") == "set" }},
}

// after waits until so many works more are done, or all of the round are.
func (s *soak) after(works int32) { s.afterAtMost(works, math.MaxInt64) }

// afterAtMost waits no longer than some time: what works may wait for the end of the fault.
func (s *soak) afterAtMost(works int32, most time.Duration) {
	began := time.Now()
	for until := s.done.Load() + works; s.done.Load() < until && !s.idle() && time.Since(began) < most; {
		time.Sleep(5 * time.Millisecond)
	}
}

func (s *soak) kills() error {
	for range 2 {
		s.after(1 + s.r.Int32N(8))
		time.Sleep(time.Duration(s.r.IntN(20)) * time.Millisecond)
		if err := errors.Join(s.end(syscall.SIGKILL), s.start()); err != nil {
			return err
		}
	}
	return nil
}

func (s *soak) restarts() error {
	s.after(1 + s.r.Int32N(8))
	return errors.Join(s.end(syscall.SIGTERM), s.start())
}

func (s *soak) upgrades() error {
	for range 2 {
		s.after(1 + s.r.Int32N(8))
		before, err := s.Info(s.ctx)
		if err != nil {
			return err
		}
		now, err := s.Upgrade(s.ctx, client.UpgradeRequest{})
		if err != nil {
			return err
		}
		if now.PID != before.PID || now.Generation == before.Generation {
			return fmt.Errorf("an upgrade of process %d, %s, has become %d, %s", before.PID, before.Generation, now.PID,
				now.Generation)
		}
	}
	return nil
}

// fullDisk has no room where the state directory is: starts are refused for that, what runs goes on, can be asked for
// and ended, and another daemon finds it; with room again all is as before.
func (s *soak) fullDisk() (err error) {
	s.after(1 + s.r.Int32N(4))
	s.faults.Add(1)
	defer func() {
		err = errors.Join(err, s.free())
		s.faults.Add(1)
	}()
	if err := s.refused(); err != nil {
		return fmt.Errorf("on a full disk: %w", err)
	}
	for _, l := range s.lives {
		t, err := s.Task(s.ctx, l.id)
		if err != nil || t.PID != l.pid || t.State != client.Running {
			return fmt.Errorf("on a full disk %s is %+v: %w", l.id, t, err)
		}
	}
	if s.r.IntN(2) == 0 {
		if _, err := s.Upgrade(s.ctx, client.UpgradeRequest{}); err != nil {
			return fmt.Errorf("on a full disk: %w", err)
		}
	}
	s.after(6)
	info, err := s.Info(s.ctx)
	if err == nil && !info.Healthy && !strings.Contains(info.Reason, "the file system is full") {
		err = fmt.Errorf("on a full disk the daemon is not healthy, and says: %s", info.Reason)
	}
	return err
}

// refused has a start be refused as the disk is full. Work that goes on leaves room now and then: a task that was
// started has all that it needs, and ends as it should.
func (s *soak) refused() error {
	const most = 100
	for range most {
		if err := s.fill(); err != nil {
			return err
		}
		spec, r := s.spec("lines", "1", "0")
		_, err := s.begin(spec, r)
		if err != nil && noRoom("", err) {
			return nil
		}
		if err != nil {
			return err
		}
		e, err := s.wait(r.id)
		if err == nil {
			err = s.ended(r, e, 0)
		}
		if err = errors.Join(err, s.remove(r)); err != nil {
			return err
		}
	}
	return fmt.Errorf("%d tasks were started one after the other, each when it was full", most)
}

// registryFails has pulls fail while the registry does, each with the registry's name, and succeed after.
func (s *soak) registryFails() error {
	image, err := s.push("fails")
	if err != nil {
		return err
	}
	pull := func(limit time.Duration) (string, error) {
		i, err := s.Pull(s.ctx, client.PullRequest{Ref: image.ref, Timeout: client.Duration(limit)}, nil)
		if err != nil {
			return "", err
		}
		return i.Digest, nil
	}
	fails := func(how string) error {
		_, err := pull(2 * time.Second)
		if err == nil || !strings.Contains(err.Error(), s.registry.name) {
			return fmt.Errorf("a pull from a registry that %s: %v, want an error that names %s", how, err, s.registry.name)
		}
		return nil
	}
	defer s.registry.way.Store(fine)
	for way, how := range map[int32]string{hangs: "hangs", refuses: "refuses"} {
		s.registry.way.Store(way)
		if err := fails(how); err != nil {
			return err
		}
	}
	s.registry.way.Store(fine)
	if err := s.registry.web.Close(); err != nil {
		return err
	}
	if err := errors.Join(fails("is dead"), s.registry.open()); err != nil {
		return err
	}
	s.registry.way.Store(resets)
	broken := s.registry.broken.Load()
	got := make(chan error, 1)
	go func() {
		digest, err := pull(4 * time.Minute)
		if err == nil && digest != image.digest {
			err = fmt.Errorf("%s is %s, and was pushed as %s", image.ref, digest, image.digest)
		}
		got <- err
	}()
	err = await("answers that are broken off", func() error {
		if s.registry.broken.Load() == broken {
			return errors.New("there is none")
		}
		return nil
	})
	s.registry.way.Store(fine)
	return errors.Join(err, <-got, s.RemoveImage(s.ctx, image.ref))
}

// consulAway has Consul be away and come back with nothing of what it had.
func (s *soak) consulAway() error {
	if err := s.consul.End(os.Kill); err != nil {
		return err
	}
	s.after(8)
	return s.consul.Start(s.ctx)
}

// inConsul wants the entries of those that live, and no others.
func (s *soak) inConsul() error {
	if s.consul == nil {
		return nil
	}
	want := map[string]bool{}
	for _, l := range s.lives {
		if l.kind == serves {
			want["freejail-"+l.id+"-http"] = true
		}
	}
	return await("the entries of those that live in Consul", func() error {
		have, err := s.consul.Client.Agent().Services()
		for id := range have {
			if !want[id] && !strings.HasPrefix(id, "_nomad") {
				err = errors.Join(err, fmt.Errorf("%s is there", id))
			}
		}
		for id := range want {
			if have[id] == nil {
				err = errors.Join(err, fmt.Errorf("%s is missing", id))
			}
		}
		return err
	})
}

// another has no other daemon come, or one in one of two ways: after an upgrade or a kill.
func (s *soak) another() error {
	switch s.r.IntN(3) {
	case 1:
		_, err := s.Upgrade(s.ctx, client.UpgradeRequest{})
		return err
	case 2:
		return errors.Join(s.end(syscall.SIGKILL), s.start())
	}
	return nil
}

// clockJumps sets the host's clock an hour on and back. It is for machines that are there for this test alone.
func (s *soak) clockJumps() error {
	for _, by := range []time.Duration{time.Hour, -2 * time.Hour, time.Hour} {
		s.after(3)
		if err := setClock(time.Now().Add(by)); err != nil {
			return err
		}
		if err := s.another(); err != nil {
			return fmt.Errorf("the clock was set by %v: %w", by, err)
		}
	}
	return nil
}

func setClock(to time.Time) error {
	tv := syscall.NsecToTimeval(to.UnixNano())
	return syscall.Settimeofday(&tv)
}

func final(err error) error {
	if err == nil {
		return nil
	}
	return testagent.Finally(err)
}
