package nfsroot

import (
	"os"
	"os/signal"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernel is the real mounter. It knows the threads that may wait for a mount's
// server.
type kernel struct {
	mu      sync.Mutex
	waiting map[string]map[int]bool // by mount point: thread ids
	swallow sync.Once
}

func newKernel() *kernel { return &kernel{waiting: map[string]map[int]bool{}} }

// A thread of ours that waits for the server keeps the kernel from unmounting
// (vfs_busy in kern_statfs of sys/kern/vfs_syscalls.c), also when the mount is
// given up, and others from their turn while it connects. But an intr mount's
// request ends with a signal, of which SIGQUIT is one that nothing else here
// wants.
const wake = unix.SIGQUIT

// during runs on a thread that interrupt wakes.
func (k *kernel) during(target string, do func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var tid int
	unix.Syscall(unix.SYS_THR_SELF, uintptr(unsafe.Pointer(&tid)), 0, 0)
	k.mu.Lock()
	if k.waiting[target] == nil {
		k.waiting[target] = map[int]bool{}
	}
	k.waiting[target][tid] = true
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if delete(k.waiting[target], tid); len(k.waiting[target]) == 0 {
			delete(k.waiting, target)
		}
	}()
	return do()
}

// look asks the server how full its file system is: no cache answers that.
func (k *kernel) look(target string) error {
	return k.during(target, func() error {
		var st unix.Statfs_t
		return unix.Statfs(target, &st)
	})
}

// interrupt wakes who waits for a server.
func (k *kernel) interrupt(target string) {
	k.swallow.Do(func() { signal.Notify(make(chan os.Signal, 1), wake) })
	for range 50 { // the first may come before the kernel waits
		k.mu.Lock()
		waiting := len(k.waiting[target]) > 0
		for tid := range k.waiting[target] { // under the lock: the thread is not another's yet
			unix.Syscall(unix.SYS_THR_KILL, uintptr(tid), uintptr(wake), 0)
		}
		k.mu.Unlock()
		if !waiting {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
