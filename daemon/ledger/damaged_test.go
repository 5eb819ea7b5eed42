package ledger

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// An approval in a database that is damaged anywhere is in force or refused: it is
// never another one, and no damage ends the daemon.
func TestDamagedApprovals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "freejail.db")
	write := func(why string) error {
		l, _, err := Open(path)
		if err != nil {
			return err
		}
		r := Record{Action: "approve", Why: why}
		for range 200 { // several pages
			if _, err := l.add(r); err != nil {
				return err
			}
		}
		return l.Close()
	}
	if err := write(strings.Repeat("y", 300)); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	put := func(b []byte) { // another file: what was opened in vain keeps its lock
		if err := errors.Join(os.Remove(path), os.WriteFile(path, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	aside := 0
	for at := 0; at < len(whole); at += page {
		for what, with := range map[string]byte{"zeros": 0, "ones": 0xff, "garbage": '?'} {
			b := bytes.Clone(whole)
			for i := at; i < at+page; i++ {
				b[i] = with
			}
			put(b)
			db, err := openDatabase(path)
			if err != nil {
				aside++
				continue
			}
			if n := records(t, db); n != 200 {
				t.Errorf("with %s at %d there are %d records, want 200 or none", what, at, n)
			}
		}
	}
	if aside == 0 {
		t.Error("no damage was found")
	}
	for at := 0; at < len(whole); at += page / 2 {
		put(whole[:at])
		if db, err := openDatabase(path); err == nil {
			if n := records(t, db); n != 200 {
				t.Errorf("cut off at %d of %d bytes there are %d records, want 200 or none", at, len(whole), n)
			}
		}
	}
}

// records counts those of a database, and closes it.
func records(t *testing.T, db *bolt.DB) (n int) {
	t.Helper()
	err := db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(approvalLogBucket).ForEach(func(_, _ []byte) error { n++; return nil })
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Error(err)
	}
	return n
}
