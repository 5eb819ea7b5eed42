package ledger

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/aside"
	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/testcrash"
	"github.com/freejail/freejail/policy"
)

// Whenever the power is cut, the database opens and is whole, an approval that was
// answered is in force, and one whose revocation was answered is not.
func TestPowerCutsOfApprovals(t *testing.T) {
	open := func(dir string) (*Ledger, *aside.Moved, error) {
		if err := durable.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
			return nil, nil, err
		}
		l, moved, err := Open(filepath.Join(dir, "state", "freejail.db"))
		if err == nil {
			err = NewEvents().Begin(l)
		}
		return l, moved, err
	}
	do := func(dir string, ack func(string)) {
		for range 2 { // two daemons
			l, _, err := open(dir)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				a := policy.Approval{Digest: fmt.Sprint(i), Why: strings.Repeat("y", 2000)}
				ack("?")
				if a.ID, err = l.Approve(a); err != nil {
					t.Fatal(err)
				}
				ack("+" + a.ID)
				if i == 1 {
					ack("?")
					if err := l.Revoke(a, "", ""); err != nil {
						t.Fatal(err)
					}
					ack("-" + a.ID)
				}
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	testcrash.Run(t, do, func(dir string, acked []string) {
		l, moved, err := open(dir)
		if moved != nil {
			err = fmt.Errorf("it is set aside: %w", moved)
		}
		if err != nil {
			t.Errorf("after %v: %v", acked, err)
			return
		}
		list, err := l.Approvals()
		if err = errors.Join(err, l.Close()); err != nil {
			t.Fatal(err)
		}
		last := map[string]bool{}
		for _, what := range acked {
			if id := what[1:]; id != "" {
				last[id] = what[0] == '+'
			}
		}
		for id, want := range last {
			has := slices.ContainsFunc(list, func(a policy.Approval) bool { return a.ID == id })
			revoking := acked[len(acked)-1] == "?" && want && !has // it may have been
			if has != want && !revoking {
				t.Errorf("after %v: approval %s in force %v, want %v", acked, id, has, want)
			}
		}
	})
}

// An approval that was found to be expired stays so, whatever the clock says later.
func TestExpiredApprovals(t *testing.T) {
	l, _, err := Open(filepath.Join(t.TempDir(), "freejail.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	expires := time.Now().Add(-time.Second)
	for range 2 { // the second is another's
		if _, err := l.Approve(policy.Approval{Expires: expires}); err != nil {
			t.Fatal(err)
		}
		expires = expires.Add(time.Hour)
	}
	for range 2 {
		list, err1 := l.Approvals()
		_, err2 := l.Expire(list)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
	}
	list, err := l.Approvals()
	yesterday := time.Now().Add(-24 * time.Hour)
	if err != nil || len(list) != 2 || !list[0].Expired(yesterday) || list[1].Expired(yesterday) {
		t.Errorf("of %+v the first alone is expired: %v", list, err)
	}
	if log, err := l.Records(); err != nil || len(log) != 3 {
		t.Errorf("the log has %d entries, want 3: %v", len(log), err)
	}
}

// The clock of the first daemon was ahead, and its numbers were the time.
func TestNumbersAfterTheClockWasSetBack(t *testing.T) {
	path, events := filepath.Join(t.TempDir(), "freejail.db"), NewEvents()
	var l *Ledger
	begin := func() {
		t.Helper()
		var err error
		if l, _, err = Open(path); err == nil {
			err = events.Begin(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	begin()
	ahead := uint64(time.Now().Add(24 * time.Hour).UnixMicro())
	if err := events.begin(ahead, events.reserve); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := errors.Join(events.Add(client.Event{}), l.Close()); err != nil {
			t.Fatal(err)
		}
		last := events.last
		events = NewEvents()
		if err := events.Add(client.Event{}); err != nil { // before the numbers are known
			t.Fatal(err)
		}
		begin()
		if after, _ := events.Since(last); len(after) != 1 {
			t.Errorf("%d events after %d, want 1", len(after), last)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// What a version approved that kept one approval a digest is in force, once, and
// what it cannot read is an error.
func TestApprovalsOfOlderVersions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "freejail.db")
	write := func(value string) {
		t.Helper()
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(approvalBucket)
			if err != nil {
				return err
			}
			return b.Put([]byte("sha256:1"), []byte(value))
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"digest":"sha256:1","by":"root (uid 0)","why":"seen","requests":[]}`)
	for range 2 {
		l, moved, err := Open(path)
		if err != nil || moved != nil {
			t.Fatal(moved, err)
		}
		list, err := l.Approvals()
		if err = errors.Join(err, l.Close()); err != nil || len(list) != 1 || list[0].ID != "a1" ||
			list[0].Why != "seen" {
			t.Errorf("in force: %+v %v", list, err)
		}
	}
	write("{")
	l, moved, err := Open(path)
	if err != nil || moved == nil {
		t.Fatalf("a faulty approval: %v %v", moved, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
