package daemon

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/internal/aside"
	"github.com/freejail/freejail/internal/testcrash"
	"github.com/freejail/freejail/policy"
)

// Whenever the power is cut, the database opens and is whole, an approval that was
// answered is in force, and one whose revocation was answered is not.
func TestPowerCutsOfApprovals(t *testing.T) {
	open := func(dir string) (*Daemon, error) {
		d := &Daemon{cfg: host.Config{StateDir: filepath.Join(dir, "state")}, log: hclog.NewNullLogger(), events: newEventLog(),
			aside: map[string]string{}}
		if err := d.makeStateDirs(); err != nil {
			return nil, err
		}
		return d, errors.Join(d.openDB(), d.openEvents())
	}
	do := func(dir string, ack func(string)) {
		for range 2 { // two daemons
			d, err := open(dir)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				a := policy.Approval{Digest: fmt.Sprint(i), Why: strings.Repeat("y", 2000)}
				ack("?")
				if a.ID, err = d.logApproval(approvalRecord{Action: "approve", Approval: a}); err != nil {
					t.Fatal(err)
				}
				ack("+" + a.ID)
				if i == 1 {
					ack("?")
					if _, err := d.logApproval(approvalRecord{Action: "revoke", Approval: a}); err != nil {
						t.Fatal(err)
					}
					ack("-" + a.ID)
				}
			}
			if err := d.db.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	testcrash.Run(t, do, func(dir string, acked []string) {
		d, err := open(dir)
		if err == nil && len(d.aside) > 0 {
			err = fmt.Errorf("it is set aside: %v", d.aside)
		}
		if err != nil {
			t.Errorf("after %v: %v", acked, err)
			return
		}
		list, err := d.approvals()
		if err = errors.Join(err, d.db.Close()); err != nil {
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
	d := &Daemon{cfg: host.Config{StateDir: t.TempDir()}, log: hclog.NewNullLogger(), events: newEventLog(), aside: map[string]string{}}
	if err := d.openDB(); err != nil {
		t.Fatal(err)
	}
	defer d.db.Close()
	expires := time.Now().Add(-time.Second)
	for range 2 { // the second is another's
		if _, err := d.logApproval(approvalRecord{Action: "approve", Approval: policy.Approval{Expires: expires}}); err != nil {
			t.Fatal(err)
		}
		expires = expires.Add(time.Hour)
	}
	for range 2 {
		list, err := d.approvals()
		if err = errors.Join(err, d.noteExpired(list)); err != nil {
			t.Fatal(err)
		}
	}
	list, err := d.approvals()
	yesterday := time.Now().Add(-24 * time.Hour)
	if err != nil || len(list) != 2 || !list[0].Expired(yesterday) || list[1].Expired(yesterday) {
		t.Errorf("of %+v the first alone is expired: %v", list, err)
	}
	if log, err := d.approvalRecords(); err != nil || len(log) != 3 {
		t.Errorf("the log has %d entries, want 3: %v", len(log), err)
	}
}

// What is not synced may be lost, but hinders nobody.
func TestPowerCutsOfRulesets(t *testing.T) {
	store := func(dir string) rulesetStore {
		return rulesetStore{filepath.Join(dir, "rulesets.json"), false, func(*aside.Moved, string) {}}
	}
	do := func(dir string, ack func(string)) {
		var sets []devfs.Set
		for i := range 3 {
			if err := store(dir).Save(sets); err != nil {
				t.Fatal(err)
			}
			sets = append(sets, devfs.Set{ID: uint16(i + 1), Hash: "x"})
		}
	}
	testcrash.Run(t, do, func(dir string, _ []string) {
		list, err := store(dir).Load()
		if err != nil || len(list) > 3 {
			t.Errorf("rulesets: %v %v", list, err)
		}
	})
}
