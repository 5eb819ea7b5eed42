// Command greedy tries what its image asks for and tells what it got.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	for _, try := range []struct {
		what string
		f    func() error
	}{{"packet filter /dev/bpf", openBPF}, {"raw socket", rawSocket}, {"shared memory", sharedMemory}} {
		if err := try.f(); err != nil {
			fmt.Printf("%s: no: %v\n", try.what, err)
		} else {
			fmt.Printf("%s: yes\n", try.what)
		}
	}
	<-stop
	fmt.Println("bye")
}

func openBPF() error {
	nodes, err := filepath.Glob("/dev/bpf*")
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		return errors.New("there is none in /dev")
	}
	f, err := os.Open(nodes[0])
	if err != nil {
		return err
	}
	return f.Close()
}

func rawSocket() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	return unix.Close(fd)
}

// IPC_PRIVATE, IPC_CREAT and IPC_RMID have these values on FreeBSD and Linux.
const (
	ipcPrivate = 0
	ipcCreate  = 0o1000
	ipcRemove  = 0
)

func sharedMemory() error {
	id, _, errno := unix.Syscall(unix.SYS_SHMGET, ipcPrivate, 4096, ipcCreate|0o600)
	if errno != 0 {
		return fmt.Errorf("shmget: %w", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SHMCTL, id, ipcRemove, 0); errno != 0 {
		return fmt.Errorf("shmctl: %w", errno)
	}
	return nil
}
