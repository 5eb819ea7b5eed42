// Package ledger keeps what must outlive the host: the log of approvals, to which
// is only added, and up to where the numbers of events are taken.
//
// It is a database of bbolt. An append-only file would be enough for what it
// holds, but approvals have to survive an upgrade, for which the library would
// have to stay, and also the way back: an older daemon reads this file alone.
// What the library takes for granted of its file is examined when it is opened;
// a file that fails is set aside, and what was approved is then refused again.
package ledger

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/freejail/freejail/internal/aside"
	"github.com/freejail/freejail/policy"
)

var (
	approvalLogBucket = []byte("approval-log")
	// approvalBucket is of versions that kept one approval a digest.
	approvalBucket = []byte("approvals")
	// counterBucket has numbers, 8 bytes each with the highest first.
	counterBucket = []byte("counters")
	eventsKey     = []byte("events")
)

// Honour is the action of a record that the host starts tasks by an approval of a fleet.
const Honour = "honour"

// Record is one entry of the log of approvals. Of a revocation Approval is the one
// that was revoked.
type Record struct {
	// Action is approve, revoke, expire or Honour; older versions take what they do not know for
	// a revocation.
	Action   string          `json:"action"`
	Approval policy.Approval `json:"approval"`
	By       string          `json:"by,omitempty"`
	At       time.Time       `json:"at,omitzero"`
	Why      string          `json:"why,omitempty"`
}

// Ledger is the open database. One process can have it open.
type Ledger struct{ db *bolt.DB }

// Open opens the database at a path, and makes it where there is none. One that is
// damaged is set aside, which moved tells, and a new one made.
func Open(path string) (l *Ledger, moved *aside.Moved, err error) {
	db, err := openDatabase(path)
	var damaged *damagedError
	if errors.As(err, &damaged) {
		if moved, err = aside.Move(path, damaged.error); err == nil {
			db, err = openDatabase(path)
		}
	}
	if err != nil {
		return nil, moved, fmt.Errorf("database %s: %w", path, err)
	}
	l = &Ledger{db}
	if err := l.prepare(); err != nil {
		return nil, moved, errors.Join(err, db.Close())
	}
	return l, moved, nil
}

// Close closes the database.
func (l *Ledger) Close() error { return l.db.Close() }

// prepare writes nothing where nothing is missing: the disk may be full.
func (l *Ledger) prepare() error {
	ready := false
	if err := l.db.View(func(tx *bolt.Tx) error {
		ready = tx.Bucket(approvalLogBucket) != nil && tx.Bucket(approvalBucket) == nil
		return nil
	}); ready || err != nil {
		return err
	}
	return l.db.Update(func(tx *bolt.Tx) error {
		log, err := tx.CreateBucketIfNotExists(approvalLogBucket)
		if err != nil {
			return err
		}
		if tx.Bucket(approvalBucket) == nil {
			return nil
		}
		if err := each(tx, approvalBucket, func(a policy.Approval) error {
			_, err := appendRecord(log, Record{Action: "approve", Approval: a})
			return err
		}); err != nil {
			return err
		}
		return tx.DeleteBucket(approvalBucket)
	})
}

// appendRecord gives a new approval its id, which is its place in the log.
func appendRecord(log *bolt.Bucket, r Record) (string, error) {
	n, err := log.NextSequence()
	if err != nil {
		return "", err
	}
	if r.Action == "approve" {
		r.Approval.ID = fmt.Sprintf("a%d", n)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	return r.Approval.ID, log.Put(binary.BigEndian.AppendUint64(nil, n), b)
}

func (l *Ledger) add(r Record) (id string, err error) {
	err = l.db.Update(func(tx *bolt.Tx) error {
		id, err = appendRecord(tx.Bucket(approvalLogBucket), r)
		return err
	})
	if err == nil {
		// Then both of the first pages lead to it, of which one may be damaged later; it
		// is on the disk without that.
		_ = l.db.Update(func(*bolt.Tx) error { return nil })
	}
	return id, err
}

// Approve records an approval, and returns its id.
func (l *Ledger) Approve(a policy.Approval) (id string, err error) {
	return l.add(Record{Action: "approve", Approval: a})
}

// Note records something of an approval of a fleet, which is none of this host.
func (l *Ledger) Note(r Record) error {
	if r.Action == "approve" || r.Approval.Approver == "" {
		return errors.New("not an approval of a fleet")
	}
	_, err := l.add(r)
	return err
}

// Revoke records that an approval was withdrawn.
func (l *Ledger) Revoke(a policy.Approval, by, why string) error {
	_, err := l.add(Record{Action: "revoke", Approval: a, By: by, At: time.Now(), Why: why})
	return err
}

// Expire records which of the approvals have expired since the last time, so that
// a clock which is set back later brings none of them back, and returns them.
func (l *Ledger) Expire(list []policy.Approval) (expired []policy.Approval, err error) {
	now := time.Now()
	for _, a := range list {
		if a.Over || !a.Expired(now) {
			continue
		}
		if _, err := l.add(Record{Action: "expire", Approval: a, At: now, By: "freejail",
			Why: "it was in force until " + a.Expires.Format(time.RFC3339)}); err != nil {
			return expired, err
		}
		expired = append(expired, a)
	}
	return expired, nil
}

// Records are everything that was ever approved, revoked and found to be expired,
// in its order.
func (l *Ledger) Records() (out []Record, err error) {
	err = l.db.View(func(tx *bolt.Tx) error {
		return each(tx, approvalLogBucket, func(r Record) error {
			out = append(out, r)
			return nil
		})
	})
	return out, err
}

// Approvals are those that were not revoked, expired ones included.
func (l *Ledger) Approvals() (out []policy.Approval, err error) {
	log, err := l.Records()
	for _, r := range log {
		same := func(a policy.Approval) bool { return a.ID == r.Approval.ID }
		switch r.Action {
		case "approve":
			out = append(out, r.Approval)
		case "expire":
			if i := slices.IndexFunc(out, same); i >= 0 {
				out[i].Over = true
			}
		default:
			out = slices.DeleteFunc(out, same)
		}
	}
	return out, err
}

// lastEvent is a number that no event has had; the numbers of versions that kept
// none were the time in microseconds.
func (l *Ledger) lastEvent() (last uint64, err error) {
	last = uint64(time.Now().UnixMicro())
	err = l.db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket(counterBucket); b != nil && len(b.Get(eventsKey)) == 8 {
			last = binary.BigEndian.Uint64(b.Get(eventsKey))
		}
		return nil
	})
	return last, err
}

// reserveEvents has later daemons begin after the block of numbers that follows.
func (l *Ledger) reserveEvents(last uint64) error {
	return l.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(counterBucket)
		if err != nil {
			return err
		}
		until := (last/eventBlock + 2) * eventBlock
		return b.Put(eventsKey, binary.BigEndian.AppendUint64(nil, until))
	})
}
