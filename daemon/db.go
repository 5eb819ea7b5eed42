package daemon

import (
	"encoding/json"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/freejail/freejail/policy"
)

// The database keeps what must outlive the host: approvals by image digest.
var approvalBucket = []byte("approvals")

func (d *Daemon) initDB() error {
	return d.db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(approvalBucket)
		return err
	})
}

func (d *Daemon) putApproval(a policy.Approval) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return d.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(approvalBucket).Put([]byte(a.Digest), b) })
}

func (d *Daemon) deleteApproval(digest string) (found bool, err error) {
	err = d.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(approvalBucket)
		found = b.Get([]byte(digest)) != nil
		return b.Delete([]byte(digest))
	})
	return found, err
}

func (d *Daemon) approvals() ([]policy.Approval, error) {
	var out []policy.Approval
	err := d.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(approvalBucket).ForEach(func(k, v []byte) error {
			var a policy.Approval
			if err := json.Unmarshal(v, &a); err != nil {
				return fmt.Errorf("database: approval of %s: %w", k, err)
			}
			out = append(out, a)
			return nil
		})
	})
	return out, err
}
