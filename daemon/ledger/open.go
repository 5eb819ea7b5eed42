package ledger

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/policy"
)

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
		return nil, &damagedError{fmt.Errorf("not a database, but %s of %d bytes", fi.Mode(), fi.Size())}
	}
	db, err := examined(path)
	for _, other := range []error{fs.ErrPermission, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EROFS,
		berrors.ErrTimeout} {
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
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
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
			return errors.Join(fmt.Errorf("truncated: it had %d bytes", tx.Size()), err)
		}
		if err := errors.Join(each(tx, approvalLogBucket, func(Record) error { return nil }),
			each(tx, approvalBucket, func(policy.Approval) error { return nil })); err != nil {
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
		torn = torn || binary.NativeEndian.Uint64(head[:]) != uint64(n) ||
			binary.NativeEndian.Uint16(head[8:]) != metaFlag
	}
	return torn, errors.Join(err, f.Close())
}

// each reads every entry of a bucket, which need not be there.
func each[T any](tx *bolt.Tx, bucket []byte, f func(T) error) error {
	b := tx.Bucket(bucket)
	if b == nil {
		return nil
	}
	return b.ForEach(func(k, v []byte) error {
		var entry T
		err := json.Unmarshal(v, &entry)
		if err == nil {
			err = f(entry)
		}
		if err != nil {
			return fmt.Errorf("%s, entry %x: %w", bucket, k, err)
		}
		return nil
	})
}
