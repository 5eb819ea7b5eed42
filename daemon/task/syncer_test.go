package task

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/durable"
)

// journals makes some of a host.
func journals(t *testing.T, names ...string) (tasks string, all []*journal) {
	t.Helper()
	tasks = t.TempDir()
	for _, name := range names {
		dir := filepath.Join(tasks, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		j, err := openJournal(dir)
		if err == nil {
			err = j.write(record{Task: &client.Task{ID: name}})
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, j)
	}
	return tasks, all
}

// syncedDirs are the directories that are synced from now on.
func syncedDirs(t *testing.T, each func(dir string)) {
	syncDir = func(dir string) error { each(dir); return durable.Sync(dir) }
	t.Cleanup(func() { syncDir = durable.Sync })
}

// Many journals are written in one go: their common directory once, and of a task that is gone nothing.
func TestJournalsOfOneGo(t *testing.T) {
	tasks, all := journals(t, "a", "b", "gone")
	var synced []string
	syncedDirs(t, func(dir string) { synced = append(synced, filepath.Base(dir)) })
	s := newSyncer(hclog.NewNullLogger())
	for _, j := range append(all, all[0]) {
		s.add(j, gathersStarts)
	}
	if err := all[2].remove(); err != nil {
		t.Fatal(err)
	}
	s.flush()
	if want := []string{"a", "b", filepath.Base(tasks)}; !slices.Equal(synced, want) {
		t.Errorf("synced are %v, want %v", synced, want)
	}
	synced = nil
	for _, j := range all {
		s.add(j, gathersEnds)
	}
	if s.flush(); len(synced) > 0 {
		t.Errorf("synced again are %v", synced)
	}
}

// Nobody waits for a journal that is alone: others may come. An end is written before a start, and with it what is soon
// due; of a task that ends and is removed soon after its start nothing is.
func TestJournalsAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, all := journals(t, "starts", "ends", "short", "with")
		starts, ends, short, with := all[0], all[1], all[2], all[3]
		when := map[string]time.Duration{}
		begin := time.Now()
		syncedDirs(t, func(dir string) { when[filepath.Base(dir)] = time.Since(begin) })
		s := newSyncer(hclog.NewNullLogger())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { s.run(ctx); close(ended) }()
		s.add(starts, gathersStarts)
		s.add(short, gathersStarts)
		time.Sleep(time.Millisecond)
		s.add(ends, gathersEnds)
		s.add(short, gathersEnds)
		time.Sleep(time.Millisecond)
		s.add(with, gathersEnds)
		if err := short.remove(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * gathersStarts)
		cancel()
		<-ended
		for j, want := range map[*journal]time.Duration{starts: gathersStarts, ends: gathersEnds + time.Millisecond,
			with: gathersEnds + time.Millisecond} {
			if got := when[filepath.Base(j.dir)]; got != want {
				t.Errorf("%s was synced after %s, want %s", j.dir, got, want)
			}
		}
		if _, was := when["short"]; was {
			t.Error("the journal of a task that is gone was synced")
		}
	})
}
