package test

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/term"

	"github.com/freejail/freejail/internal/testprog"
)

// The test binary is also the program of the images that it runs.
func TestMain(m *testing.M) {
	testprog.Main(m, testprog.Programs{"probe": func(args []string) int { return probe(args[0], args[1:]) },
		"device-plugin": func(args []string) int { return devicePlugin(args[0], args[1]) }})
}

// probe is what tasks do in these tests.
func probe(mode string, args []string) int {
	switch mode {
	case "serve":
		return serve()
	case "exit":
		code, err := strconv.Atoi(args[0])
		fmt.Fprintln(os.Stderr, "exit", code)
		return fail(err, code)
	case "env":
		env := os.Environ()
		slices.Sort(env)
		fmt.Println(strings.Join(env, "\n"))
		return 0
	case "signals":
		return signals()
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		time.Sleep(time.Hour)
	case "tick":
		return tick()
	case "fill":
		return fill(args[0])
	case "device":
		return device(args[0])
	case "load":
		return load(args[0])
	case "eat":
		return eat(args[0])
	case "cat":
		for _, name := range args {
			b, err := os.ReadFile(name)
			if err != nil {
				return fail(err, 0)
			}
			fmt.Printf("%s", b)
		}
		return 0
	case "write":
		return fail(os.WriteFile(args[0], []byte(args[1]), 0o644), 0)
	case "stat":
		fi, err := os.Stat(args[0])
		if err != nil {
			return fail(err, 0)
		}
		st := fi.Sys().(*syscall.Stat_t)
		fmt.Println(fi.Mode(), st.Uid, st.Gid)
		return 0
	case "id":
		fmt.Println(os.Getuid(), os.Getgid(), os.Getenv("HOME"))
		return 0
	case "terminal":
		return terminal()
	}
	return fail(fmt.Errorf("no mode %q", mode), 0)
}

func fail(err error, code int) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func serve() int {
	addr := net.JoinHostPort(os.Getenv("FREEJAIL_ADDR_http"), os.Getenv("FREEJAIL_PORT_http"))
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("request", r.URL.Path)
		fmt.Fprintln(w, os.Getenv("GREETING"), "from process", os.Getpid())
	})
	http.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		if os.Getenv("HEALTH") != "" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		fmt.Fprintln(w, "fine")
	})
	go func() {
		if err := http.ListenAndServe(addr, nil); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}()
	fmt.Println("serving on", addr)
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	<-c
	fmt.Println("bye")
	return 0
}

// device opens one, and tells what a device plugin gave besides.
func device(path string) int {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	fmt.Println("open:", err)
	if err == nil {
		err = f.Close()
	}
	fmt.Println("TEST_DEVICE=" + os.Getenv("TEST_DEVICE"))
	firmware, readErr := os.ReadFile("/usr/lib/device/firmware")
	fmt.Printf("%s%v\n", firmware, readErr)
	return fail(err, 0)
}

// load holds some bytes of memory and keeps a processor busy.
func load(bytes string) int {
	n, err := strconv.Atoi(bytes)
	if err != nil {
		return fail(err, 0)
	}
	held := slices.Repeat([]byte{1}, n)
	fmt.Println("loaded")
	for i := 0; ; i = (i + 4096) % n {
		held[i]++
	}
}

func signals() int {
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGHUP, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGTERM)
	fmt.Println("ready")
	for s := range c {
		fmt.Println("got", s)
		if s == syscall.SIGTERM {
			return 3
		}
		if s == syscall.SIGINT {
			return 4
		}
	}
	return 0
}

// tick writes a number a line, without a gap, until it is told to end.
func tick() int {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	for n := 1; ; n++ {
		fmt.Println("tick", n)
		select {
		case <-c:
			return 9
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func eat(mib string) int {
	n, err := strconv.Atoi(mib)
	if err != nil {
		return fail(err, 0)
	}
	var all [][]byte
	for range n {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 512 {
			b[i] = byte(i)
		}
		all = append(all, b)
	}
	fmt.Println("ate", len(all))
	time.Sleep(2 * time.Second)
	return 0
}

// fill writes to the root, and stays long enough to be found over its limit.
func fill(mib string) int {
	n, err := strconv.Atoi(mib)
	if err != nil {
		return fail(err, 0)
	}
	f, err := os.Create("/tmp/fill")
	if err != nil {
		return fail(err, 0)
	}
	for range n {
		if _, err := io.CopyN(f, rand.Reader, 1<<20); err != nil { // zeros would be compressed away
			return fail(err, 0)
		}
		if err := f.Sync(); err != nil { // ZFS counts what is on the disk
			return fail(err, 0)
		}
	}
	fmt.Println("filled", n)
	if n > 10 {
		time.Sleep(time.Hour)
	}
	return 0
}

// terminal tells the window's size after each line that it reads.
func terminal() int {
	if !term.IsTerminal(0) {
		fmt.Println("no terminal")
		return 5
	}
	fmt.Println("terminal")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		cols, rows, err := term.GetSize(0)
		if err != nil {
			return fail(err, 0)
		}
		fmt.Printf("%s: %d rows, %d columns\n", in.Text(), rows, cols)
		if in.Text() == "end" {
			return 6
		}
	}
	return 7
}
