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

// kernel is the real mounter. It knows the threads of its looks.
type kernel struct {
	mu      sync.Mutex
	looks   map[string]int
	swallow sync.Once
}

func newKernel() *kernel { return &kernel{looks: map[string]int{}} }

// A look at a mount keeps the kernel from unmounting it (vfs_busy in
// kern_statfs of sys/kern/vfs_syscalls.c), also when the mount is given up. But
// an intr mount's request ends with a signal, of which SIGQUIT is one that
// nothing else here wants.
const wake = unix.SIGQUIT

// look asks the server how full its file system is: no cache answers that.
func (k *kernel) look(target string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var tid int
	unix.Syscall(unix.SYS_THR_SELF, uintptr(unsafe.Pointer(&tid)), 0, 0)
	k.mu.Lock()
	k.looks[target] = tid
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		delete(k.looks, target)
		k.mu.Unlock()
	}()
	var st unix.Statfs_t
	return unix.Statfs(target, &st)
}

// interrupt ends a look, if one is under way.
func (k *kernel) interrupt(target string) {
	k.swallow.Do(func() { signal.Notify(make(chan os.Signal, 1), wake) })
	for range 50 { // the first may come before the kernel waits
		k.mu.Lock()
		tid, looking := k.looks[target]
		if looking { // under the lock: the thread is not another's yet
			unix.Syscall(unix.SYS_THR_KILL, uintptr(tid), uintptr(wake), 0)
		}
		k.mu.Unlock()
		if !looking {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
