package daemon

import (
	"context"
	"fmt"
	"strings"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/internal/printable"
)

// inForce follows changes of the host's file without being told.
func (d *Daemon) inForce() *host.InForce {
	now, news := d.follower.Follow()
	if news != nil {
		d.event("policy", news.Error())
	}
	return now
}

// Reload reads the host's file again, changed or not, and then the approvers' lists of revocations.
func (d *Daemon) Reload(ctx context.Context) (*client.Reloaded, error) {
	if err := d.follower.Reload(); err != nil {
		return nil, err
	}
	return &client.Reloaded{Revocations: d.judge.RefreshLists(ctx)}, nil
}

// event tells something of the host.
func (d *Daemon) event(kind, message string) { d.addEvent("", kind, message, nil) }

// addEvent tells something of a task, or of the host, to whoever follows it, and to the
// log. It is one line, whatever others have written in it, of which the beginning is enough.
func (d *Daemon) addEvent(taskID, kind, message string, labels map[string]string) {
	message = cut(printable.Flat(message))
	d.record.Told(kind)
	d.log.Info(message, "task", taskID, "kind", kind)
	if err := d.events.Add(client.Event{Task: taskID, Kind: kind, Message: message, Labels: labels}); err != nil {
		d.log.Warn("events after a restart of the daemon may have numbers that there were", "error", err)
	}
}

// maxMessage bounds the bytes of an event's text, as many of which are kept for late readers.
const maxMessage = 4 << 10

func cut(text string) string {
	if len(text) <= maxMessage {
		return text
	}
	begin := strings.ToValidUTF8(text[:maxMessage], "")
	return fmt.Sprintf("%s... (%d bytes more)", begin, len(text)-len(begin))
}
