package daemon

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/freejail/freejail/internal/testpf"
)

const loopback = "lo0"

// ownHost has this host be fit for networks: a stack of its own would have another pf(4).
func ownHost(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("jails need root")
	}
	testpf.Use(t)
}

// makeBridge makes one of the operator's.
func makeBridge(t *testing.T, name string) {
	t.Helper()
	made := lines(t, "ifconfig", "bridge", "create", "name", name, "up")
	if len(made) != 1 || made[0] != name {
		t.Fatalf("made %q", made)
	}
	t.Cleanup(func() { lines(t, "ifconfig", name, "destroy") })
}

// links are the interfaces that are like freejail's.
func links(t *testing.T) (out []string) {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if strings.HasPrefix(l.Name, "epair") && len(l.Name) == len("epair16384a") {
			out = append(out, l.Name)
		}
	}
	return out
}

// stacks are those that tasks of a state directory have, dying ones too.
func stacks(t *testing.T, dir string) (names []string) {
	t.Helper()
	for _, l := range lines(t, "jls", "-d", "name", "path") {
		if strings.HasPrefix(l, "fjnet-") && strings.HasSuffix(l, dir+"/state") {
			names = append(names, l)
		}
	}
	return names
}
