package daemon

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// crowd asks on many connections and keeps them all, until its input ends.
func crowd(socket string, n int) int {
	var all []net.Conn
	for range n {
		c, err := net.Dial("unix", socket)
		for errors.Is(err, syscall.ECONNREFUSED) { // FreeBSD does not wait for room in the queue
			time.Sleep(time.Millisecond)
			c, err = net.Dial("unix", socket)
		}
		if err != nil {
			fmt.Println(len(all), "connections:", err)
			return 1
		}
		all = append(all, c)
		// Where it is closed already there is nobody to ask.
		_, _ = io.WriteString(c, "GET /v1/info HTTP/1.1\r\nHost: x\r\n\r\n")
	}
	answer, err := http.ReadResponse(bufio.NewReader(all[0]), nil)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(len(all), answer.Status, answer.Close)
	_, err = io.Copy(io.Discard, os.Stdin)
	for _, c := range all {
		err = errors.Join(err, c.Close())
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// strangers is how many connections of those who are refused package api keeps.
const strangers = 16

// Whoever is refused cannot take the daemon's descriptors by asking again and
// again on connections that he keeps.
func TestRefusedConnectionsAreNotKept(t *testing.T) {
	dir := shortDir(t)
	c, _ := daemonAt(t, dir, "")
	info, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	socket, prog := filepath.Join(dir, "s"), filepath.Join(dir, "prog")
	self, err1 := os.Executable()
	b, err2 := os.ReadFile(self)
	if err := errors.Join(err1, err2, os.WriteFile(prog, b, 0o755), os.Chmod(dir, 0o755),
		os.Chmod(socket, 0o777)); err != nil {
		t.Fatal(err)
	}
	before := openFiles(t, info.PID)
	cmd := exec.Command(prog, "crowd", socket, "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "1000 403 Forbidden true\n" {
		t.Errorf("the crowd hears %q: %v", line, err)
	}
	if _, err := c.Tasks(t.Context()); err != nil {
		t.Errorf("root of the host hears %v", err)
	}
	if n := openFiles(t, info.PID); n > before+strangers+10 {
		t.Errorf("the daemon has %d descriptors open, %d before", n, before)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
