package storage

import (
	"cmp"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/freejail/freejail/internal/boot"
	"github.com/freejail/freejail/internal/durable"
	"github.com/freejail/freejail/internal/mount"
	"github.com/freejail/freejail/internal/regular"
	"github.com/freejail/freejail/internal/remove"
)

// A chain is renamed into place when its files are written, but neither UFS nor
// ext4 promises that their data reach the disk before the name does, and to wait
// for the disk would take longer than to unpack. So a note beside the chains
// tells in which boot of the host one was made, until it is on the disk wholly.
// After a crash of the host a chain with a note is dropped, and unpacked again
// when it is wanted.

var bootID = boot.ID // tests take others

// settleAfter is longer than the kernels keep what is to be written: then there
// is little left to wait for.
const settleAfter = time.Minute

// fresh are the chains with a note, with a number that no other had.
type fresh struct {
	mu    sync.Mutex
	last  int
	notes map[string]int
	after time.Duration // 0 is settleAfter
}

// noteFresh must be on the disk before the chain has its name.
func (d *dirs) noteFresh(chain string) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	f, err := os.Create(d.path("fresh", chain))
	if err != nil {
		return err
	}
	_, err = f.WriteString(boot)
	if err = errors.Join(err, f.Sync(), f.Close(), durable.Sync(d.path("fresh"))); err != nil {
		return err
	}
	d.isFresh(chain)
	return nil
}

func (d *dirs) isFresh(chain string) {
	d.fresh.mu.Lock()
	defer d.fresh.mu.Unlock()
	if d.fresh.notes == nil {
		d.fresh.notes = map[string]int{}
	}
	d.fresh.last++
	d.fresh.notes[chain] = d.fresh.last
}

func (d *dirs) forgetFresh(chain string) error {
	d.fresh.mu.Lock()
	defer d.fresh.mu.Unlock()
	delete(d.fresh.notes, chain)
	return remove.Tree(d.path("fresh", chain)) // a damaged one may be anything
}

// settleLater settles a chain that has a note.
func (d *dirs) settleLater(chain string) {
	d.fresh.mu.Lock()
	number, after := d.fresh.notes[chain], cmp.Or(d.fresh.after, settleAfter)
	d.fresh.mu.Unlock()
	go d.settle(chain, number, after)
}

// settle has a chain written to the disk and removes its note, unless the chain
// was removed or made anew meanwhile. If it fails the note stays, which is safe.
func (d *dirs) settle(chain string, number int, after time.Duration) {
	time.Sleep(after)
	if err := errors.Join(syncTree(d.path("chains", chain)), durable.Sync(d.path("chains"))); err != nil {
		return
	}
	d.fresh.mu.Lock()
	defer d.fresh.mu.Unlock()
	if d.fresh.notes[chain] == number && os.Remove(d.path("fresh", chain)) == nil {
		delete(d.fresh.notes, chain)
	}
}

// madeIn is the boot in which a chain was made; of a note that cannot be read none.
func (d *dirs) madeIn(chain string) string {
	path := d.path("fresh", chain)
	f, _, err := regular.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := regular.Read(f, path, 1<<10)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// dropTorn drops the chains of earlier boots that may not be whole.
func (d *dirs) dropTorn() error {
	notes, err := d.names("fresh")
	if err != nil || len(notes) == 0 {
		return err
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	mounts, err := mount.Below(d.path("roots"), d.path("points"))
	if err != nil {
		return err
	}
	for _, chain := range notes {
		// No root's mount outlives a boot.
		if d.madeIn(chain) == boot || len(mounts) > 0 {
			d.isFresh(chain)
			d.settleLater(chain)
			continue
		}
		tmp, err := d.hideChain(chain)
		if err != nil {
			return err
		}
		_ = d.discard(tmp) // noted
	}
	return nil
}
