package daemon

import (
	"encoding/json"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/policy"
)

// The database keeps what must outlive the host: approvals by image digest,
// and the registry of rulesets.
var (
	approvalBucket = []byte("approvals")
	rulesetBucket  = []byte("rulesets")
	registryKey    = []byte("registry")
)

func (d *Daemon) initDB() error {
	return d.db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{approvalBucket, rulesetBucket} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
}

// rulesetStore keeps the registry's state as one value.
type rulesetStore struct{ db *bolt.DB }

func (s rulesetStore) Load() ([]devfs.Set, error) {
	var sets []devfs.Set
	err := s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(rulesetBucket).Get(registryKey)
		if b == nil {
			return nil
		}
		return json.Unmarshal(b, &sets)
	})
	if err != nil {
		return nil, fmt.Errorf("database: rulesets: %w", err)
	}
	return sets, nil
}

func (s rulesetStore) Save(sets []devfs.Set) error {
	b, err := json.Marshal(sets)
	if err != nil {
		return err
	}
	return s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(rulesetBucket).Put(registryKey, b) })
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
