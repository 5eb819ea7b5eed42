package soak

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/freejail/freejail/internal/testhost"
	"github.com/freejail/freejail/internal/testprog"
)

// The test binary is also the program of the images that it runs.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || programs[os.Args[1]] == nil {
		if code, done := testhost.Apart(); done {
			os.Exit(code)
		}
	}
	testprog.Main(m, programs)
}

// goes is how long a counting program rests after a line.
const goes = 100 * time.Millisecond

var programs = testprog.Programs{
	"count": func(args []string) int { return count(args) },
	"lines": func(args []string) int {
		n, code := number(args[0]), number(args[1])
		for i := range n {
			fmt.Printf("line %d\n", i+1)
		}
		return code
	},
	"cat": func(args []string) int {
		b, err := os.ReadFile(args[0])
		fmt.Printf("%s", b)
		return failed(err)
	},
	"serve": func(args []string) int {
		http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, args[0]) })
		return failed(http.ListenAndServe(":8080", nil))
	},
}

func failed(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	return 0
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(98)
	}
	return n
}

// count writes a line after the other, also to the file that it is given, until SIGTERM. Its exit code is given too.
func count(args []string) int {
	code := number(args[0])
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	var also *os.File
	if len(args) > 1 {
		var err error
		if also, err = os.OpenFile(args[1], os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644); err != nil {
			return failed(err)
		}
	}
	for n := 1; ; n++ {
		line := fmt.Sprintf("line %d\n", n)
		if _, err := os.Stdout.WriteString(line); err != nil {
			return failed(err)
		}
		if also != nil {
			if _, err := also.WriteString(line); err != nil {
				return failed(err)
			}
		}
		select {
		case <-told:
			return code
		case <-time.After(goes):
		}
	}
}
