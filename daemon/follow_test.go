package daemon

import (
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/ledger"
	"github.com/freejail/freejail/daemon/telemetry"
)

// An event keeps no more of a text than its beginning, and says so.
func TestEventsAreShort(t *testing.T) {
	d := &Daemon{log: hclog.NewNullLogger(), events: ledger.NewEvents(), record: telemetry.New("test")}
	short := strings.Repeat("é", maxMessage/2)
	d.event("copy", short)
	d.event("copy", "x"+strings.Repeat("é", 4<<20))
	events, _ := d.events.Since(0)
	want := "x" + strings.Repeat("é", maxMessage/2-1) + "... (8384514 bytes more)"
	if len(events) != 2 || events[0].Message != short || events[1].Message != want {
		t.Errorf("%d events, %d and %d bytes", len(events), len(events[0].Message), len(events[1].Message))
	}
}
