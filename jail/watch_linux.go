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

// watcher waits for the ends of all processes in one goroutine.
type watcher struct {
	epoll int
	oom   func(jail string) bool

	mu    sync.Mutex
	procs map[int]*watched // by pid
	byFD  map[int32]int
}

type watched struct {
	pidfd int
	jail  string // of a first process
	exit  chan Exit
	done  bool
}

func newWatcher(oom func(string) bool) (*watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	w := &watcher{epoll: fd, oom: oom, procs: map[int]*watched{}, byFD: map[int32]int{}}
	go w.run()
	return w, nil
}

func (w *watcher) add(pid int, jail string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.procs[pid] = &watched{pidfd: fd, jail: jail, exit: make(chan Exit, 1)}
	w.byFD[int32(fd)] = pid
	return unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (w *watcher) has(pid int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.procs[pid]
	return ok && !p.done
}

// wait hands the one channel of a process out; it is forgotten when its end
// has been told.
func (w *watcher) wait(pid int) <-chan Exit {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, ok := w.procs[pid]
	if !ok {
		c := make(chan Exit, 1)
		c <- Exit{Reason: fmt.Sprintf("process %d is not known", pid), At: time.Now()}
		return c
	}
	if p.done {
		delete(w.procs, pid)
	}
	return p.exit
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
	w.mu.Lock()
	pid := w.byFD[fd]
	p := w.procs[pid]
	delete(w.byFD, fd)
	w.mu.Unlock()
	// Only off the list can the descriptor's number come again.
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, int(fd), nil); err != nil {
		panic(fmt.Sprintf("epoll: %v", err))
	}
	var ws unix.WaitStatus
	got, err := unix.Wait4(pid, &ws, unix.WNOHANG, nil)
	if err == nil && got == pid {
		w.tell(pid, p, status(syscall.WaitStatus(ws), true))
		return
	}
	go func() { // no child of ours: its parent reaps it in a moment
		ws, ok := exitInfo(p.pidfd)
		w.tell(pid, p, status(ws, ok))
	}()
}

func status(ws syscall.WaitStatus, known bool) Exit {
	e := Exit{Known: known, At: time.Now()}
	switch {
	case !known:
	case ws.Signaled():
		e.Signal, e.Code = int(ws.Signal()), 128+int(ws.Signal())
	default:
		e.Code = ws.ExitStatus()
	}
	return e
}

func (w *watcher) tell(pid int, p *watched, e Exit) {
	unix.Close(p.pidfd)
	if p.jail != "" && (e.Signal == int(unix.SIGKILL) || e.Code == 137) {
		e.OOM = w.oom(p.jail)
	}
	w.mu.Lock()
	p.done = true
	w.mu.Unlock()
	p.exit <- e
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
