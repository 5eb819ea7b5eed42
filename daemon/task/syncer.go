package task

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/internal/durable"
)

// syncer has journals written to the disk soon after what they tell. Nobody waits
// for it: a start would take longer by what the disk needs. Many journals are
// written in one go, and those of tasks that are gone meanwhile not at all.
type syncer struct {
	log  hclog.Logger
	wake chan struct{}
	turn sync.Mutex // of who writes

	mu    sync.Mutex
	dirty map[*journal]time.Time // when it is to be on the disk
}

// How long journals are gathered. A crash of the host within these times takes the record of a task that has just been
// started, which ended with the host, or an end that a client may have been told of.
const (
	gathersStarts = time.Second
	gathersEnds   = 250 * time.Millisecond
)

// syncDir is a variable for tests.
var syncDir = durable.Sync

func newSyncer(log hclog.Logger) *syncer {
	return &syncer{log: log, wake: make(chan struct{}, 1), dirty: map[*journal]time.Time{}}
}

// add has a journal on the disk within some time.
func (s *syncer) add(j *journal, within time.Duration) {
	due := time.Now().Add(within)
	s.mu.Lock()
	if before, ok := s.dirty[j]; !ok || due.Before(before) {
		s.dirty[j] = due
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *syncer) run(ctx context.Context) {
	next := time.NewTimer(gathersStarts)
	defer next.Stop()
	for {
		if due, some := s.first(); some {
			next.Reset(time.Until(due))
		} else {
			next.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake: // one that is due before
		case <-next.C:
			s.write(time.Now().Add(gathersEnds / 2)) // those that are soon due have no turn of their own
		}
	}
}

// first is when a journal is due.
func (s *syncer) first() (due time.Time, some bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dirty {
		if !some || d.Before(due) {
			due, some = d, true
		}
	}
	return due, some
}

// due takes the journals that are to be on the disk by a time.
func (s *syncer) due(by time.Time) (out []*journal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for j, due := range s.dirty {
		if !due.After(by) {
			out = append(out, j)
			delete(s.dirty, j)
		}
	}
	slices.SortFunc(out, func(a, b *journal) int { return strings.Compare(a.dir, b.dir) })
	return out
}

// flush returns when all that was added before is on the disk.
func (s *syncer) flush() { s.write(time.Now().Add(gathersStarts)) }

// write is flush for those that are due by a time.
func (s *syncer) write(by time.Time) {
	s.turn.Lock()
	defer s.turn.Unlock()
	var unnamed []*journal
	dirs := map[string]error{} // of tasks' directories
	for _, j := range s.due(by) {
		err := j.sync()
		if err == nil && !j.named {
			unnamed = append(unnamed, j)
			dirs[filepath.Dir(j.dir)] = nil
		}
		s.tell(j, err)
	}
	for dir := range dirs {
		dirs[dir] = syncDir(dir)
	}
	for _, j := range unnamed {
		err := dirs[filepath.Dir(j.dir)]
		j.named = err == nil
		s.tell(j, err)
	}
}

func (s *syncer) tell(j *journal, err error) {
	if err != nil {
		s.log.Error("a journal is not on the disk yet: a crash of the host could lose it", "journal", j.file.Name(),
			"error", err)
	}
}

// sync has the journal on the disk, and its name in the task's directory. One that was removed is no error.
func (j *journal) sync() error {
	err := j.file.Sync()
	if err == nil && !j.named {
		err = syncDir(j.dir)
	}
	if errors.Is(err, os.ErrClosed) || errors.Is(err, fs.ErrNotExist) {
		j.named = true // for good
		return nil
	}
	return err
}
