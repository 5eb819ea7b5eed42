package jail

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

// The kernel has a list of all memory objects of the host with what they hold, and
// for each process what it has mapped and open. Anonymous memory has a handle there
// and here, so that it is counted exactly: each object once, whoever has it mapped,
// with those that lie under a copy-on-write one, and whether or not the pages are
// in a page table. Only of one that lies over a file the mapping tells the file
// instead: there it is the emptiest of those that it could be. Shared memory
// (shm_open(2), memfd_create(2)) has no handle: an object with a name belongs to the
// jail within whose root the name lies, and one without is as full as its mapping
// tells, or as the emptiest of those that have the size of a descriptor, so that
// nobody is charged for another's. Kernels before 15 do not tell which objects are
// shared memory.

// Offsets in struct kinfo_vmobject and kinfo_vmentry of sys/user.h, the
// same on amd64 and arm64.
const (
	kvoSize, kvoRefs, kvoResident, kvoBacking, kvoMe, kvoFlags, kvoPath = 8, 28, 40, 64, 72, 132, 160 // bytes, pages
	kvoPosixShm                                                         = 2
	maxRecord                                                           = 2048 // longer than any

	kveType, kveStart, kveEnd, kveFileID, kveFlags = 4, 8, 16, 32, 44
	kveResident, kveOwn, kveRefs, kveObj, kvePath  = 48, 52, 60, 88, 136 // pages
	kveTypeVnode, kveTypeSwap                      = 2, 3
	kveFlagCOW, kveFlagSysvShm, kveFlagPosixShm    = 1, 0x80, 0x100
)

// What a jail may have the daemon read. Linux lets a process have as many mappings
// (vm.max_map_count); those of one with paths of 370 bytes each fit into maxAnswer.
const (
	maxMappings     = 65530
	maxJailMappings = 1 << 20
	smallAnswer     = 256 << 10
	maxAnswer       = 32 << 20
	maxDepth        = 64 // of objects over one another
)

var errTooLong = errors.New("the kernel's answer is too long")

// longAnswers are the buffers for what does not fit into a small one, allotted when
// first asked for. Jails whose processes have such answers wait for them, and nobody
// else does.
var longAnswers = make(chan []byte, 2)

func init() {
	for range cap(longAnswers) {
		longAnswers <- nil
	}
}

// answer calls f for each record of a sysctl's answer for a process; the first word of
// one is its length. One that is too long is an error, and f is not called.
func answer(mib []int32, f func(b bsd.Record)) error {
	if done, err := answerInto(make([]byte, smallAnswer), mib, f); done {
		return err
	}
	buf := <-longAnswers
	if buf == nil {
		buf = make([]byte, maxAnswer)
	}
	defer func() { longAnswers <- buf }()
	if done, err := answerInto(buf, mib, f); done {
		return err
	}
	return errTooLong
}

// hostAnswer is answer for a list of the host.
func hostAnswer(mib []int32, f func(b bsd.Record)) error {
	for size := smallAnswer; size <= 1<<30; size *= 2 {
		if done, err := answerInto(make([]byte, size), mib, f); done {
			return err
		}
	}
	return errTooLong
}

// answerInto is not done where the answer does not fit.
func answerInto(buf []byte, mib []int32, f func(b bsd.Record)) (done bool, err error) {
	n, err := bsd.Sysctl(mib, buf, nil)
	// Some answers end where there is no room, without a word.
	if errors.Is(err, unix.ENOMEM) || err == nil && len(buf)-n < maxRecord {
		return false, nil
	}
	if err == nil {
		bsd.EachRecord(buf[:n], f)
	}
	return true, err
}

// Lists of objects: those that can be swapped, quickly told, and all with those of
// large pages.
const (
	swapObjects = "vm.swap_objects"
	allObjects  = "vm.objects"
)

// hasLargePages tells whether there are objects of large pages, which are not swapped.
func hasLargePages() bool {
	for _, size := range []string{"65536", "2M", "32M", "1G"} {
		if n, err := unix.SysctlUint64("vm.largepages." + size); err == nil && n > 0 {
			return true
		}
	}
	return false
}

// object is anonymous memory, with the handle of what it lies over, or shared
// memory. Sizes are bytes.
type object struct {
	size, resident, refs int64
	backing              int64
	path                 string
}

// objects are those of the host.
type objects struct {
	anonymous map[int64]object // by handle
	overFiles []int64          // of those, the ones that lie over files, as copies tells them
	shared    []object         // the emptiest first
}

func hostObjects() (out objects, err error) {
	list := swapObjects
	if hasLargePages() {
		list = allObjects
	}
	mib, err := bsd.SysctlNumber(list)
	if err != nil {
		return out, err
	}
	out.anonymous = map[int64]object{}
	page := int64(bsd.PageSize)
	err = hostAnswer(mib, func(b bsd.Record) {
		if len(b) <= kvoPath {
			return
		}
		o := object{size: b.Long(kvoSize), resident: b.Long(kvoResident) * page, refs: b.Uint(kvoRefs)}
		me := b.Long(kvoMe)
		switch {
		case b.Uint(kvoFlags)&kvoPosixShm != 0:
			o.path = unix.ByteSliceToString(b[kvoPath:])
			out.shared = append(out.shared, o)
		case me != 0:
			o.backing = b.Long(kvoBacking)
			out.anonymous[me] = o
		}
	})
	slices.SortFunc(out.shared, func(a, b object) int { return cmp.Compare(a.resident, b.resident) })
	out.overFiles = out.copies()
	return out, err
}

// sharedTotal is what all shared memory of the host holds.
func (o objects) sharedTotal() (sum int64) {
	for _, s := range o.shared {
		sum += s.resident
	}
	return sum
}

// anonymousOf is what anonymous objects hold, with all that they lie over.
func (o objects) anonymousOf(handles ...map[int64]bool) (sum int64) {
	seen := map[int64]bool{}
	var all []int64
	for _, some := range handles {
		all = slices.AppendSeq(all, maps.Keys(some))
	}
	for _, h := range all {
		for !seen[h] {
			one, known := o.anonymous[h]
			if !known { // a file's, or born since
				break
			}
			seen[h] = true
			sum += one.resident
			h = one.backing
		}
	}
	return sum
}

// overFile tells whether an object lies over a file, and what it holds with all that
// is between. The list is no picture of one moment: it can lead in a circle.
func (o objects) overFile(top object) (sum int64, is bool) {
	one := top
	for range maxDepth {
		sum += one.resident
		below, known := o.anonymous[one.backing]
		if !known {
			break
		}
		one = below
	}
	return sum, one.backing != 0
}

// copies are the handles of anonymous objects that lie over files, those first that
// hold least.
func (o objects) copies() (out []int64) {
	held := map[int64]int64{}
	for h, top := range o.anonymous {
		if sum, is := o.overFile(top); is {
			out, held[h] = append(out, h), sum
		}
	}
	slices.SortFunc(out, func(a, b int64) int { return cmp.Compare(held[a], held[b]) })
	return out
}

// copiesOf finds the objects of private mappings of files: for each the emptiest
// that is no smaller and has as many references, those of the longest first.
func (o objects) copiesOf(private map[copied]int64) map[int64]bool {
	found := map[int64]bool{}
	keys := slices.SortedFunc(maps.Keys(private), func(a, b copied) int { return cmp.Compare(b.length, a.length) })
	for _, key := range keys {
		n := distinct(private[key], key.refs)
		for _, h := range o.overFiles {
			if one := o.anonymous[h]; n > 0 && !found[h] && one.size >= key.length && one.refs == key.refs {
				found[h] = true
				n--
			}
		}
	}
	return found
}

// named is what the shared memory holds whose names lie within a root.
func (o objects) named(root string) (sum int64) {
	for _, s := range o.shared {
		if strings.HasPrefix(s.path, strings.TrimSuffix(root, "/")+"/") {
			sum += s.resident
		}
	}
	return sum
}

// emptiest is what the n emptiest of the nameless objects of a size hold.
func (o objects) emptiest(n, size int64) (sum int64) {
	for _, s := range o.shared {
		if n > 0 && nameless(s.path) && s.size == size {
			sum += s.resident
			n--
		}
	}
	return sum
}

// segment tells shared memory without a name by what a mapping tells of all of it.
type segment struct {
	resident, refs, id int64
	sysv               bool
}

// copied tells the copies that a private mapping of a file has: its length in bytes
// and the references to its object.
type copied struct{ length, refs int64 }

// holdings are what processes have.
type holdings struct {
	anonymous map[int64]bool     // handles
	private   map[copied]int64   // mappings
	segments  map[segment]int64  // mappings
	open      map[[2]int64]int64 // descriptors of shared memory, by its size and the references to it
	mappings  int
	silent    int64 // resident in processes that the kernel does not tell of
}

type holder struct {
	pid int
	rss int64
}

// addMappings returns errTooLong where they are too many to be counted.
func (h *holdings) addMappings(p holder) error {
	n := 0
	err := answer([]int32{1, 14, 32, int32(p.pid)}, func(b bsd.Record) { // KERN_PROC_VMMAP
		n++
		if len(b) > kvePath {
			h.addMapping(b)
		}
	})
	h.mappings += n
	switch {
	case n > maxMappings || h.mappings > maxJailMappings || errors.Is(err, errTooLong):
		return errTooLong
	case errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EBUSY): // it ended, or runs another program just now
	case err != nil:
		h.silent += p.rss
	}
	return nil
}

func (h *holdings) addMapping(b bsd.Record) {
	kind, flags, own, refs := b.Uint(kveType), b.Uint(kveFlags), b.Uint(kveOwn), b.Uint(kveRefs)
	switch {
	case kind == kveTypeVnode:
		// What the file itself has in memory the host can take back. One that
		// has objects over it has nothing of its own.
		if flags&kveFlagCOW != 0 && own == 0 && b.Uint(kveResident) > 0 {
			h.private[copied{b.Long(kveEnd) - b.Long(kveStart), refs}]++
		}
	case b.Long(kveObj) != 0:
		h.anonymous[b.Long(kveObj)] = true
	case kind != kveTypeSwap && flags&kveFlagPosixShm == 0: // a device's
	case nameless(unix.ByteSliceToString(b[kvePath:])):
		h.segments[segment{own * int64(bsd.PageSize), refs, b.Long(kveFileID), flags&kveFlagSysvShm != 0}]++
	}
}

// addOpen asks for one process, which may have ended. Of one with more descriptors
// than an answer has room for nothing is known.
func (h *holdings) addOpen(p holder) {
	page := int64(bsd.PageSize)
	_ = answer([]int32{1, 14, 33, int32(p.pid)}, func(b bsd.Record) { // KERN_PROC_FILEDESC
		if size, refs, name, is := (bsd.File{Record: b}).SharedMemory(); is && nameless(name) {
			h.open[[2]int64{(size + page - 1) / page * page, refs}]++
		}
	})
}

// shared is what the nameless shared memory holds. What is mapped can be open too,
// and cannot be told from it: the greater of the two counts.
func (h *holdings) shared(o objects) int64 {
	var mapped, open, sysv int64
	for s, n := range h.segments {
		if s.sysv {
			sysv += s.resident * distinct(n, s.refs)
		} else {
			mapped += s.resident * distinct(n, s.refs)
		}
	}
	sizes := map[int64]int64{}
	for key, n := range h.open {
		sizes[key[0]] += distinct(n, key[1])
	}
	for size, n := range sizes {
		open += o.emptiest(n, size)
	}
	return sysv + max(mapped, open)
}

// nameless tells an object by its path: "anon", or none once it is closed.
func nameless(path string) bool { return !strings.HasPrefix(path, "/") }

// distinct is how many things there are if so many references are seen, and each
// has so many.
func distinct(seen, each int64) int64 { return (seen + max(1, each) - 1) / max(1, each) }
