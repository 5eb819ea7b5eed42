package task

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/freejail/freejail/daemon/client"
)

// A port that a program has at some address of the host can be published at another one.
func TestElsewhereIsNamed(t *testing.T) {
	p := client.Port{Port: 53, To: 8080}
	if text := elseAt(p, claim{}); !strings.Contains(text, "ADDRESS:53:8080") {
		t.Error(text)
	}
	if text := elseAt(p, claim{binding: binding{addr: netip.MustParseAddr("192.0.2.1")}}); text != "" {
		t.Error(text)
	}
}
