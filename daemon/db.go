package daemon

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/aside"
	"github.com/freejail/freejail/internal/durable"
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
	Action   string          `json:"action"` // approve, revoke, expire; older versions take expire for revoke
	Approval policy.Approval `json:"approval"`
	By       string          `json:"by,omitempty"`
	At       time.Time       `json:"at,omitzero"`
	Why      string          `json:"why,omitempty"`
}

// openDB opens the database. One that is damaged is set aside, and a new one made:
// what was approved is then refused again.
func (d *Daemon) openDB() (err error) {
	path := d.path("freejail.db")
	d.db, err = openDatabase(path)
	var damaged *damagedError
	if errors.As(err, &damaged) {
		var moved *aside.Moved
		if moved, err = aside.Move(path, damaged.error); err == nil {
			d.damaged(moved, "what was approved has to be approved again")
			d.db, err = openDatabase(path)
		}
	}
	if err != nil {
		return fmt.Errorf("database %s: %w", path, err)
	}
	return d.initDB()
}

// damagedError tells that what is in a database, not what became of opening it, is
// at fault.
type damagedError struct{ error }

// openDatabase opens a database that can be relied on, making it where there is
// none.
func openDatabase(path string) (*bolt.DB, error) {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := makeDatabase(path); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case !fi.Mode().IsRegular() || fi.Size() == 0: // makeDatabase leaves no such file
		return nil, &damagedError{fmt.Errorf("it is no database, but %s of %d bytes", fi.Mode(), fi.Size())}
	}
	db, err := examined(path)
	for _, other := range []error{fs.ErrPermission, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EROFS, berrors.ErrTimeout} {
		if errors.Is(err, other) {
			return nil, err
		}
	}
	if err != nil {
		return nil, &damagedError{err}
	}
	return db, nil
}

// makeDatabase makes an empty database, which has its name when it is whole.
func makeDatabase(path string) error {
	temp := path + ".new"
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	db, err := bolt.Open(temp, 0o600, nil)
	if err == nil {
		err = db.Close()
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return err
	}
	return durable.Sync(filepath.Dir(path))
}

// examined opens a database and reads all that is in it. The library takes what it
// finds for what it wrote: it panics, or the kernel faults it, at what is not.
func examined(path string) (db *bolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("what is in it cannot be read: %v", r)
		}
		if err != nil && db != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	if db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: 5 * time.Second}); err != nil {
		return nil, err
	}
	return db, db.View(func(tx *bolt.Tx) error {
		if fi, err := os.Stat(path); err != nil || fi.Size() < tx.Size() {
			return errors.Join(fmt.Errorf("it is cut off: it had %d bytes", tx.Size()), err)
		}
		if err := readAll(tx); err != nil {
			return err
		}
		if torn, err := tornMeta(path, db.Info().PageSize); torn || err != nil {
			return err
		}
		for err := range tx.Check() {
			return err // it is closed for good: nobody waits for the others
		}
		return nil
	})
}

// tornMeta tells whether one of the two first pages was being written when the power
// went. The other counts then, but the library's check stumbles over it.
func tornMeta(path string, pageSize int) (torn bool, err error) {
	const metaFlag = 4 // common/page.go of the library: an id of 8 bytes, flags of 2
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	var head [10]byte
	for n := range 2 {
		_, rerr := f.ReadAt(head[:], int64(n*pageSize))
		err = errors.Join(err, rerr)
		torn = torn || binary.NativeEndian.Uint64(head[:]) != uint64(n) || binary.NativeEndian.Uint16(head[8:]) != metaFlag
	}
	return torn, errors.Join(err, f.Close())
}

// readAll reads every record.
func readAll(tx *bolt.Tx) error {
	for name, into := range map[string]func() any{
		string(approvalLogBucket): func() any { return new(approvalRecord) },
		string(approvalBucket):    func() any { return new(policy.Approval) },
	} {
		b := tx.Bucket([]byte(name))
		if b == nil {
			continue
		}
		err := b.ForEach(func(k, v []byte) error {
			if err := json.Unmarshal(v, into()); err != nil {
				return fmt.Errorf("%s, entry %x: %w", name, k, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// initDB writes nothing where nothing is missing: the disk may be full.
func (d *Daemon) initDB() error {
	ready := false
	if err := d.db.View(func(tx *bolt.Tx) error {
		ready = tx.Bucket(approvalLogBucket) != nil && tx.Bucket(approvalBucket) == nil
		return nil
	}); ready || err != nil {
		return err
	}
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

// counterBucket has numbers, 8 bytes each with the highest first.
var counterBucket = []byte("counters")

// openEvents goes on with the numbers of events where the last daemon ended, or one
// block later. The numbers of versions that kept none were the time in microseconds.
func (d *Daemon) openEvents() error {
	last, key := uint64(time.Now().UnixMicro()), []byte("events")
	if err := d.db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket(counterBucket); b != nil && len(b.Get(key)) == 8 {
			last = binary.BigEndian.Uint64(b.Get(key))
		}
		return nil
	}); err != nil {
		return err
	}
	err := d.events.begin(last, func(last uint64) error {
		return d.db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(counterBucket)
			if err != nil {
				return err
			}
			until := (last/eventBlock + 2) * eventBlock
			return b.Put(key, binary.BigEndian.AppendUint64(nil, until))
		})
	})
	if err != nil { // such as of a full disk, on which it runs all the same
		d.log.Warn("events after a restart of the daemon may have numbers that there were", "error", err)
	}
	return nil
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
	if err == nil {
		// Then both of the first pages lead to it, of which one may be damaged later; it
		// is on the disk without that.
		_ = d.db.Update(func(*bolt.Tx) error { return nil })
	}
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
