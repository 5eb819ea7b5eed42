package daemon

import (
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/printable"
)

// event tells something of the host.
func (d *Daemon) event(kind, message string) { d.addEvent("", kind, message, nil) }

// addEvent tells something of a task, or of the host, to whoever follows it, and to the
// log. It is one line, whatever others have written in it.
func (d *Daemon) addEvent(taskID, kind, message string, labels map[string]string) {
	message = printable.Flat(message)
	d.log.Info(message, "task", taskID, "kind", kind)
	if err := d.events.Add(client.Event{Task: taskID, Kind: kind, Message: message, Labels: labels}); err != nil {
		d.log.Warn("events after a restart of the daemon may have numbers that there were", "error", err)
	}
}
