package task

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/internal/durable"
)

// syncer has journals written to the disk soon after what they tell. Nobody waits
// for it: a start would take longer by what the disk needs, and many journals are
// written in one go while the disk is busy.
type syncer struct {
	log  hclog.Logger
	wake chan struct{}
	turn sync.Mutex // of who writes

	mu    sync.Mutex
	dirty []*journal
}

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
	for _, j := range dirty {
		if done[j] {
			continue
		}
		done[j] = true
		if err := j.sync(); err != nil {
			s.log.Error("a journal is not on the disk yet: a crash of the host could lose it", "journal", j.file.Name(),
				"error", err)
		}
	}
}

// sync has the journal on the disk, with its name. One that was removed is no
// error.
func (j *journal) sync() error {
	err := j.file.Sync()
	if err == nil && !j.named {
		err = errors.Join(durable.Sync(j.dir), durable.Sync(filepath.Dir(j.dir)))
		j.named = err == nil
	}
	if errors.Is(err, os.ErrClosed) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
