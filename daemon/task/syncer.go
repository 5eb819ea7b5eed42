package task

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
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
	dirty []*journal
}

// gathers is how long journals are gathered. A crash of the host within it takes the record of a task that has just
// been started, which ended with the host, or an end that a client may have been told of.
const gathers = 250 * time.Millisecond

// syncDir is a variable for tests.
var syncDir = durable.Sync

func newSyncer(log hclog.Logger) *syncer { return &syncer{log: log, wake: make(chan struct{}, 1)} }

func (s *syncer) add(j *journal) {
	s.mu.Lock()
	s.dirty = append(s.dirty, j)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *syncer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			select {
			case <-ctx.Done():
				return
			case <-time.After(gathers):
			}
			s.flush()
		}
	}
}

// flush returns when all that was added before is on the disk.
func (s *syncer) flush() {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	dirty := s.dirty
	s.dirty = nil
	s.mu.Unlock()
	done := map[*journal]bool{}
	var unnamed []*journal
	dirs := map[string]error{} // of tasks' directories
	for _, j := range dirty {
		if done[j] {
			continue
		}
		done[j] = true
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
