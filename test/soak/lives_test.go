package soak

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/testagent"
)

// life is a task that lives on over rounds and what comes over its host.
type life struct {
	*record
	kind   kind
	pid    int
	since  int // round
	last   int // line that was seen
	port   int
	file   string // on the host, with its lines
	breaks int32
	faults int32
}

// kind is how the lines of a life are kept, or what it does instead.
type kind string

const (
	inFile   kind = "file"   // its standard output is a file of the host's
	overNFS  kind = "nfs"    // as before, and its root is over NFS
	inLog    kind = "log"    // the daemon keeps it
	inVolume kind = "volume" // it writes to a volume
	serves   kind = "serves" // it has an address, a published port and an entry in Consul
)

// live starts one of each kind.
func (s *soak) live() error {
	kinds := []kind{inFile, inLog, inVolume, serves}
	if s.roots != nil {
		kinds = append(kinds, overNFS)
	}
	for _, k := range kinds {
		if err := s.bear(k); err != nil {
			return err
		}
	}
	return nil
}

func (s *soak) bear(k kind) error {
	code := s.r.IntN(100)
	spec, r := s.spec("count", strconv.Itoa(code))
	r.code = code
	l := &life{record: r, kind: k, since: s.round, breaks: s.breaks.Load(), faults: s.faults.Load()}
	l.file = s.path("volumes/" + r.id)
	switch k {
	case inFile, overNFS:
		if err := os.WriteFile(l.file, nil, 0o600); err != nil {
			return err
		}
		spec.Stdout = l.file
		if k == overNFS {
			spec.Storage = "nfs"
		}
	case inVolume:
		if err := os.Mkdir(l.file, 0o777); err != nil {
			return err
		}
		spec.Volumes = []client.Mount{{Source: l.file, Target: "/data"}}
		spec.Args = append(spec.Args, "/data/lines")
		l.file += "/lines"
	case serves:
		l.port = s.port()
		spec.Image, spec.Args, spec.Network = serving, []string{"serve", r.id}, "lan"
		spec.Publish = []client.Publication{{Address: "127.0.0.1", Port: l.port, To: 8080, Protocol: "tcp"}}
	}
	t, err := s.begin(spec, r)
	if err != nil {
		return err
	}
	l.pid = t.PID
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lives = append(s.lives, l)
	return nil
}

// lines are all that a life has written.
func (s *soak) lines(l *life) (string, error) {
	if l.kind == inLog {
		return s.output(l.id)
	}
	b, err := os.ReadFile(l.file)
	return string(b), err
}

// check wants a life to be the same process as ever, that goes on, and of which no line is lost. The daemon's log may
// lack up to 64 KiB where a daemon was killed, and what was written while there was no room.
func (s *soak) check(l *life) error {
	t, err := s.Task(s.ctx, l.id)
	if err != nil {
		return err
	}
	if t.State != client.Running || t.PID != l.pid {
		return fmt.Errorf("%s (%s) is %s with process %d, and was %d: %+v", l.id, l.kind, t.State, t.PID, l.pid, t.Exit)
	}
	if l.kind == serves {
		return s.serves(l.port, l.record)
	}
	return await("lines of "+l.id, func() error {
		last, err := s.seen(l)
		if err != nil {
			return testagent.Finally(err)
		}
		if last <= l.last {
			return fmt.Errorf("the last is still %d", last)
		}
		l.last = last
		return nil
	})
}

func (s *soak) seen(l *life) (int, error) {
	text, err := s.lines(l)
	if err != nil {
		return 0, err
	}
	gaps := l.kind == inLog && (l.breaks != s.breaks.Load() || l.faults != s.faults.Load())
	last, err := contiguous(text, gaps)
	if err == nil && last < l.last {
		err = fmt.Errorf("the last was %d and is %d", l.last, last)
	}
	if err != nil {
		err = fmt.Errorf("%s (%s): %w", l.id, l.kind, err)
	}
	return last, err
}

// bury ends a life, whose exit is the real one and whose lines are all there.
func (s *soak) bury(l *life) error {
	if l.kind == serves {
		if err := s.remove(l.record); err != nil {
			return err
		}
		return nil
	}
	if l.last == 0 { // it takes signals when it has written
		if err := s.check(l); err != nil {
			return err
		}
	}
	e, err := s.Stop(s.ctx, l.id, client.StopRequest{Timeout: client.Duration(4 * time.Minute)})
	if err != nil {
		return err
	}
	if err := s.ended(l.record, e, 0); err != nil {
		return err
	}
	if _, err := s.seen(l); err != nil {
		return err
	}
	if err := s.remove(l.record); err != nil {
		return err
	}
	if l.kind == inLog {
		return nil
	}
	if _, err := s.seen(l); err != nil { // the host's own file is kept
		return err
	}
	return os.RemoveAll(strings.TrimSuffix(l.file, "/lines"))
}

// renew ends some of those that live, all of them where it is said, and has others live instead.
func (s *soak) renew(all bool) error {
	lives := s.lives
	s.lives = nil
	var buried []kind
	for _, l := range lives {
		if !all && s.r.IntN(4) > 0 && s.round-l.since < 20 {
			s.lives = append(s.lives, l)
			continue
		}
		if err := s.bury(l); err != nil {
			return err
		}
		buried = append(buried, l.kind)
	}
	if all {
		return nil
	}
	for _, k := range buried {
		if err := s.bear(k); err != nil {
			return err
		}
	}
	return nil
}

// settle finds out what became of tasks about which nobody has told: those that had begun are there, and those that are
// there end as they should. Then nothing but what lives is there.
func (s *soak) settle() error {
	living := map[string]bool{}
	for _, l := range s.lives {
		living[l.id] = true
	}
	s.mu.Lock()
	records := s.records
	s.records = nil
	s.mu.Unlock()
	for _, r := range records {
		if living[r.id] {
			continue
		}
		t, err := s.Task(s.ctx, r.id)
		switch {
		case client.IsNotFound(err) && r.started && !r.ending && !s.collects():
			return fmt.Errorf("%s ran, and the daemon has lost it", r.id)
		case client.IsNotFound(err):
			continue
		case err != nil:
			return err
		case r.started && !r.ending && t.Exit != nil && !r.exited:
			if err := s.ended(r, t.Exit, 0); err != nil && t.Exit.Signal == 0 {
				return err
			}
		}
		if err := s.remove(r); err != nil {
			return err
		}
	}
	return errors.Join(s.told(records), s.eventsGoOn())
}

// told wants the daemon's log to have the beginning and the end of each task whose client was told of both.
func (s *soak) told(records []*record) error {
	b, err := os.ReadFile(s.path("daemon.log"))
	if err != nil {
		return err
	}
	text := string(b)
	for _, r := range records {
		if !s.undisturbed(r) {
			continue
		}
		for kind, want := range map[string]bool{"started": r.started, "exited": r.exited} {
			if want && !strings.Contains(text, "task="+r.id+" kind="+kind+"\n") {
				return fmt.Errorf("the daemon's log has no event %s of %s", kind, r.id)
			}
		}
	}
	return nil
}

// eventsGoOn wants the numbers of events to grow, by one as long as the daemon is the same.
func (s *soak) eventsGoOn() error {
	info, err := s.Info(s.ctx)
	if err != nil {
		return err
	}
	last, first := s.event, true
	err = s.Events(s.ctx, s.event, false, func(e client.Event) error {
		jumped := e.Seq != last+1 && !(first && s.lastGeneration != info.Generation)
		if e.Seq <= last || jumped && last > 0 {
			return fmt.Errorf("event %d is followed by %d: %s %s", last, e.Seq, e.Kind, e.Message)
		}
		last, first = e.Seq, false
		return nil
	})
	if s.event != last { // a daemon that has told of nothing yet may begin anywhere
		s.event, s.lastGeneration = last, info.Generation
	}
	return err
}
