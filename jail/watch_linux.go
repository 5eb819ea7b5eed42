package jail

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// procState is what this backend keeps of a process.
type procState struct{ pidfd int }

// watcher waits for the ends of all processes in one goroutine.
type watcher struct {
	epoll int
	oom   func(jail string) bool
	procs procs

	mu   sync.Mutex
	byFD map[int32]int // pids
}

func newWatcher(oom func(string) bool) (*watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	w := &watcher{epoll: fd, oom: oom, byFD: map[int32]int{}}
	go w.run()
	return w, nil
}

// add watches a process; jail is named for its first process alone.
func (w *watcher) add(pid int, jail string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.procs.add(pid, proc{jail: jail, backend: procState{pidfd: fd}})
	w.byFD[int32(fd)] = pid
	return unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (w *watcher) run() {
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(w.epoll, events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			panic(fmt.Sprintf("epoll: %v", err)) // the descriptor is ours alone
		}
		for _, e := range events[:n] {
			w.ended(e.Fd)
		}
	}
}

func (w *watcher) ended(fd int32) {
	w.procs.still.RLock()
	defer w.procs.still.RUnlock()
	w.mu.Lock()
	pid := w.byFD[fd]
	delete(w.byFD, fd)
	w.mu.Unlock()
	// Only off the list can the descriptor's number come again.
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, int(fd), nil); err != nil {
		panic(fmt.Sprintf("epoll: %v", err))
	}
	var ws unix.WaitStatus
	got, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil)
	if err == nil && got == pid {
		w.tell(pid, exitOf(syscall.WaitStatus(ws)))
		return
	}
	go func() { // no child of ours: its parent reaps it in a moment
		w.procs.still.RLock()
		defer w.procs.still.RUnlock()
		if ws, ok := exitInfo(int(fd)); ok {
			w.tell(pid, exitOf(ws))
		} else {
			w.tell(pid, Exit{At: time.Now()})
		}
	}()
}

// jails are those whose first process has not ended.
func (t *procs) jails() (names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.m {
		if p.jail != "" && p.exit == nil {
			names = append(names, p.jail)
		}
	}
	return names
}

func (w *watcher) tell(pid int, e Exit) {
	p, ok := w.procs.get(pid)
	if !ok {
		return
	}
	unix.Close(p.backend.pidfd)
	if p.jail != "" && (e.Signal == int(unix.SIGKILL) || e.Code == 137) {
		e.OOM = w.oom(p.jail)
	}
	w.procs.tell(pid, e)
}

// pidfdInfo is struct pidfd_info of linux/pidfd.h, its first version.
type pidfdInfo struct {
	mask, cgroupID uint64
	ids            [11]uint32
	exitCode       int32
}

const (
	pidfdGetInfo  = 0xC040FF0B // _IOWR(0xFF, 11, 64 bytes)
	pidfdInfoExit = 1 << 3
)

// exitInfo asks the kernel for the exit status of a process that is not our
// child. Kernels before 6.15 do not tell.
func exitInfo(pidfd int) (syscall.WaitStatus, bool) {
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		info := pidfdInfo{mask: pidfdInfoExit}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
		if errno == 0 && info.mask&pidfdInfoExit != 0 {
			return syscall.WaitStatus(info.exitCode), true
		}
		if errno == unix.ENOTTY || errno == unix.EINVAL {
			break
		}
		time.Sleep(wait)
	}
	return 0, false
}
