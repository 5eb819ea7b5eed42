package daemon

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/freejail/freejail/policy"
)

// The database keeps what must outlive the host: the log of approvals, to which
// is only added. What is in force follows from it.
var (
	approvalLogBucket = []byte("approval-log")
	// approvalBucket is of versions that kept one approval a digest.
	approvalBucket = []byte("approvals")
)

// approvalRecord is one entry of the log. Of a revocation Approval is the
// one that was revoked.
type approvalRecord struct {
	Action   string          `json:"action"` // approve, revoke
	Approval policy.Approval `json:"approval"`
	By       string          `json:"by,omitempty"`
	At       time.Time       `json:"at,omitzero"`
	Why      string          `json:"why,omitempty"`
}

func (d *Daemon) initDB() error {
	return d.db.Update(func(tx *bolt.Tx) error {
		log, err := tx.CreateBucketIfNotExists(approvalLogBucket)
		if err != nil {
			return err
		}
		old := tx.Bucket(approvalBucket)
		if old == nil {
			return nil
		}
		if err := old.ForEach(func(k, v []byte) error {
			var a policy.Approval
			if err := json.Unmarshal(v, &a); err != nil {
				return fmt.Errorf("database: approval of %s: %w", k, err)
			}
			_, err := appendRecord(log, approvalRecord{Action: "approve", Approval: a})
			return err
		}); err != nil {
			return err
		}
		return tx.DeleteBucket(approvalBucket)
	})
}

// appendRecord gives a new approval its id, which is its place in the log.
func appendRecord(log *bolt.Bucket, r approvalRecord) (string, error) {
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

func (d *Daemon) logApproval(r approvalRecord) (id string, err error) {
	err = d.db.Update(func(tx *bolt.Tx) error {
		id, err = appendRecord(tx.Bucket(approvalLogBucket), r)
		return err
	})
	return id, err
}

func (d *Daemon) approvalRecords() ([]approvalRecord, error) {
	var out []approvalRecord
	err := d.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(approvalLogBucket).ForEach(func(k, v []byte) error {
			var r approvalRecord
			if err := json.Unmarshal(v, &r); err != nil {
				return fmt.Errorf("database: the log of approvals, entry %x: %w", k, err)
			}
			out = append(out, r)
			return nil
		})
	})
	return out, err
}

// approvals are those that were not revoked, expired ones included.
func (d *Daemon) approvals() ([]policy.Approval, error) {
	log, err := d.approvalRecords()
	var out []policy.Approval
	for _, r := range log {
		if r.Action == "approve" {
			out = append(out, r.Approval)
		} else {
			out = slices.DeleteFunc(out, func(a policy.Approval) bool { return a.ID == r.Approval.ID })
		}
	}
	return out, err
}
