package signals

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text           string
		linux, freebsd int // 0 is none
	}{
		{"SIGTERM", 15, 15}, {"term", 15, 15}, {"sigQuit", 3, 3}, {"15", 15, 15}, {"SIGUSR1", 10, 30}, {"10", 10, 10},
		{"SIGRTMIN", 34, 65}, {"SIGRTMIN+3", 37, 68}, {"RTMIN+3", 37, 68}, {"rtmin+3", 37, 68}, {"sigrtmin+30", 64, 95},
		{"SIGRTMIN+31", 0, 96}, {"SIGRTMIN+61", 0, 126}, {"SIGRTMIN+62", 0, 0}, {"SIGRTMAX", 64, 126},
		{"RTMAX-14", 50, 112}, {"SIGRTMAX-61", 0, 65}, {"RTMAX-62", 0, 0}, {"SIGRTMAX+1", 0, 0}, {"SIGRTMIN-1", 0, 0},
		{"37", 37, 0}, {"32", 32, 32}, {"33", 33, 33}, {"34", 34, 0}, {"64", 64, 0}, {"65", 0, 65}, {"126", 0, 126},
		{"127", 0, 0}, {"SIGPWR", 30, 0}, {"SIGINFO", 0, 29}, {"SIGIOT", 6, 6}, {"SIGPOLL", 29, 23}, {"CLD", 17, 20},
		{"0", 0, 0}, {"-1", 0, 0}, {"", 0, 0}, {"SIG", 0, 0}, {"SIGFOO", 0, 0}, {"SIGRTMIN+", 0, 0}, {"SIGRTMIN3", 0, 0},
		{"SIGRTMIN++3", 0, 0}, {"SIGSIGTERM", 0, 0}, {" SIGTERM", 0, 0}, {"15 ", 0, 0},
		{"99999999999999999999", 0, 0}, {"SIGRTMIN+99999999999999999999", 0, 0},
	} {
		for system, want := range map[string]int{"linux": c.linux, "freebsd": c.freebsd} {
			if got, err := Parse(c.text, system); int(got) != want || (err == nil) != (want != 0) {
				t.Errorf("%q of %s is %d, want %d: %v", c.text, system, got, want, err)
			}
		}
		if Known(c.text) != (c.linux+c.freebsd > 0) {
			t.Errorf("%q: known: %t", c.text, Known(c.text))
		}
	}
	if _, err := Parse("TERM", ""); err != nil {
		t.Error(err)
	}
}

// FreeBSD's kernel gives a program of Linux SIGRTMIN+3 where it is sent 70.
func TestTranslate(t *testing.T) {
	for _, c := range []struct {
		text, from, to string
		want           int
	}{
		{"SIGRTMIN+3", "linux", "freebsd", 70}, {"37", "linux", "freebsd", 70}, {"32", "linux", "freebsd", 65},
		{"64", "linux", "freebsd", 97}, {"10", "linux", "freebsd", 30}, {"SIGPWR", "linux", "freebsd", 98},
		{"SIGSTKFLT", "linux", "freebsd", 0}, {"SIGRTMIN+3", "freebsd", "linux", 37}, {"68", "freebsd", "linux", 37},
		{"SIGINFO", "freebsd", "linux", 0}, {"SIGRTMAX", "freebsd", "linux", 0}, {"SIGUSR1", "freebsd", "linux", 10},
		{"SIGRTMIN+3", "freebsd", "freebsd", 68}, {"SIGRTMIN+3", "linux", "linux", 37},
	} {
		if got, err := translate(c.text, c.from, c.to); int(got) != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%s of %s on %s is %d, want %d: %v", c.text, c.from, c.to, got, c.want, err)
		}
	}
}

// The tables are this system's own.
func TestTheHostsOwn(t *testing.T) {
	for n := range len(systems[Host].names) {
		sig := unix.Signal(n + 1)
		if has := unix.SignalName(sig); has != "" {
			if same, err := ForHost(has, Host); err != nil || same != sig {
				t.Errorf("%d is %s, not %s: %v", n+1, has, Name(sig), err)
			}
		}
		if got, err := ForHost(Name(sig), Host); err != nil || got != sig {
			t.Errorf("%s is %d: %v", Name(sig), got, err)
		}
	}
	for _, name := range []string{"SIGRTMIN", "SIGRTMIN+7"} {
		if sig, err := ForHost(name, Host); err != nil || Name(sig) != name {
			t.Errorf("%s is %s: %v", name, Name(sig), err)
		}
	}
	if got := Name(200); got != "signal 200" {
		t.Error(got)
	}
}
