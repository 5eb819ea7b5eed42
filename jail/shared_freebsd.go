package jail

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Shared memory that nobody has mapped is resident in no process: shm_open(2) and
// memfd_create(2) give a descriptor to write(2) to. The kernel has a list of all
// such objects of the host with what they hold, and for each process what it has
// open and mapped, but tells of neither whose an object is. So an object with a
// name belongs to the jail within whose root the name lies, and one without to
// who has a descriptor of its size, or has mapped as much. Kernels before 15 do
// not tell which objects are shared memory.

// sharedTick is how often objects are looked at.
const sharedTick = time.Second

// Offsets in struct kinfo_vmobject, kinfo_file and kinfo_vmentry of sys/user.h, the
// same on amd64 and arm64.
const (
	kvoSize, kvoResident, kvoFlags, kvoPath = 8, 40, 132, 160 // bytes, pages
	kvoPosixShm                             = 2
	maxRecord                               = 2048 // longer than any

	kfType, kfRefs, kfSize, kfPath = 4, 12, 312, 368 // bytes
	kfTypeShm                      = 8

	kveFlags, kveResident, kveOwn, kveRefs, kvePath = 44, 48, 52, 60, 136 // pages
	kveFlagPosixShm                                 = 0x100
)

// object is a shared memory object of the host; sizes are bytes.
type object struct {
	size, resident int64
	path           string
	taken          bool
}

// records calls f for each record of a sysctl's answer; the first word of one is
// its length.
func records(mib []int32, f func(b []byte)) error {
	buf := make([]byte, 256<<10)
	for {
		n, err := sysctl(mib, buf, nil)
		// Some answers end where there is no room, without a word.
		full := errors.Is(err, unix.ENOMEM) || err == nil && len(buf)-n < maxRecord
		if full && len(buf) < 1<<30 {
			buf = make([]byte, 2*len(buf))
			continue
		}
		if err != nil {
			return err
		}
		for b := buf[:n]; len(b) >= 4; {
			size := int(binary.NativeEndian.Uint32(b))
			if size <= 0 || size > len(b) {
				return nil
			}
			f(b[:size])
			b = b[size:]
		}
		return nil
	}
}

func number(b []byte, off int) int64   { return int64(binary.NativeEndian.Uint64(b[off:])) }
func number32(b []byte, off int) int64 { return int64(binary.NativeEndian.Uint32(b[off:])) }

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

// sharedObjects are those of the host, the largest first.
func sharedObjects(list string) (out []object, err error) {
	mib, err := sysctlNumber(list)
	if err != nil {
		return nil, err
	}
	page := int64(pageSize)
	err = records(mib, func(b []byte) {
		if len(b) > kvoPath && number32(b, kvoFlags)&kvoPosixShm != 0 {
			out = append(out, object{size: number(b, kvoSize), resident: number(b, kvoResident) * page, path: text(b[kvoPath:])})
		}
	})
	slices.SortFunc(out, func(a, b object) int { return int(min(max(b.resident-a.resident, -1), 1)) })
	return out, err
}

// lookAtShared kills jails that are over their limit with their shared memory. What
// the kernel is asked for may wait for a server that is away, so nobody waits.
func (m *Manager) lookAtShared(used map[int]int64) {
	if !m.sharedBusy.CompareAndSwap(false, true) {
		return
	}
	if time.Since(m.sharedAt) < sharedTick {
		m.sharedBusy.Store(false)
		return
	}
	m.sharedAt = time.Now()
	go func() {
		defer m.sharedBusy.Store(false)
		list := swapObjects
		if hasLargePages() {
			list = allObjects
		}
		if objects, err := sharedObjects(list); err == nil { // else the next look will do
			m.killOverShared(used, objects)
		}
	}()
}

// killOverShared kills by the host's objects and what is used beside them, by jail.
func (m *Manager) killOverShared(used map[int]int64, objects []object) {
	var all int64
	for _, o := range objects {
		all += o.resident
	}
	for _, s := range m.limited() {
		if used[s.jid]+all <= s.Memory {
			continue // even if all of it were its own
		}
		shared, err := m.sharedOf(s, slices.Clone(objects))
		if n := used[s.jid] + shared; err == nil && shared > 0 && n > s.Memory {
			m.killOver(s, n, fmt.Sprintf(", %d MiB of it shared memory", shared>>20))
		}
	}
}

// sharedOf is what the objects of a jail hold that is not resident in its
// processes, in bytes.
func (m *Manager) sharedOf(s state, objects []object) (int64, error) {
	h := holdings{open: map[[2]int64]int64{}, mapped: map[[2]int64]int64{}}
	err := m.eachBorn(func(jid int, k kinfo) {
		if jid == s.jid && !k.zombie() {
			h.processes = append(h.processes, holder{k.pid(), int64(k.rss())})
		}
	})
	if err != nil {
		return 0, err
	}
	for _, p := range h.processes {
		h.add(p)
	}
	return max(0, h.held(s.root, objects)-h.resident), nil
}

type holder struct {
	pid int
	rss int64
}

// holdings are what processes have of objects without names: how many descriptors
// there are of a size, and how many mappings of so much, each by the number of
// references that there are to the same.
type holdings struct {
	processes    []holder
	open, mapped map[[2]int64]int64
	resident     int64 // of the mapped, in the processes
}

// add asks for one process, which may have ended.
func (h *holdings) add(p holder) {
	page := int64(pageSize)
	_ = records([]int32{1, 14, 33, int32(p.pid)}, func(b []byte) { // KERN_PROC_FILEDESC
		if len(b) > kfPath && number32(b, kfType) == kfTypeShm && nameless(text(b[kfPath:])) {
			h.open[[2]int64{(number(b, kfSize) + page - 1) / page * page, number32(b, kfRefs)}]++
		}
	})
	var mapped int64
	_ = records([]int32{1, 14, 32, int32(p.pid)}, func(b []byte) { // KERN_PROC_VMMAP
		if len(b) <= kvePath || number32(b, kveFlags)&kveFlagPosixShm == 0 {
			return
		}
		n := number32(b, kveOwn)
		if n == 0 { // it has pages of its own over those of the object
			n = number32(b, kveResident)
		}
		mapped += n * page
		if nameless(text(b[kvePath:])) {
			h.mapped[[2]int64{n * page, number32(b, kveRefs)}]++
		}
	})
	h.resident += min(p.rss, mapped)
}

// held sums up what the objects hold that belong to the jail with a root.
func (h *holdings) held(root string, objects []object) (sum int64) {
	take := func(n int64, is func(o *object) bool) {
		for i := range objects {
			if o := &objects[i]; n > 0 && !o.taken && is(o) {
				o.taken = true
				sum += o.resident
				n--
			}
		}
	}
	take(int64(len(objects)), func(o *object) bool { return strings.HasPrefix(o.path, strings.TrimSuffix(root, "/")+"/") })
	for key, n := range h.open {
		take(distinct(n, key[1]), func(o *object) bool { return nameless(o.path) && o.size == key[0] })
	}
	for key, n := range h.mapped { // and closed
		take(distinct(n, key[1]), func(o *object) bool {
			return nameless(o.path) && max(o.resident-key[0], key[0]-o.resident) <= max(1<<20, key[0]/10)
		})
	}
	return sum
}

// nameless tells an object by its path: "anon", or none once it is closed.
func nameless(path string) bool { return !strings.HasPrefix(path, "/") }

// distinct is how many things there are if so many references are seen, and each
// has so many.
func distinct(seen, each int64) int64 { return (seen + each - 1) / max(1, each) }
