package daemon

import (
	"fmt"
	"time"

	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/internal/printable"
)

// checkApprovers tells the age of the approvers' lists of revocations.
func (d *Daemon) checkApprovers(c *host.Checks) {
	now := time.Now()
	for _, who := range d.inForce().Approvers {
		name := "approver " + who.Name
		if who.From == "" {
			c.OK(name, "no revocations are named: an approval holds until it expires")
			continue
		}
		st := d.lists.State(who.Source)
		stale := who.Current(st, now)
		const sign = "freejail policy revoke --sign KEY --list FILE"
		fix := "have the newest list, no older copy, dated (" + sign + "), and see that it can be read: " + who.From
		switch {
		case st.List == nil:
			fix = "the first list may be empty: " + sign + " --new makes it; put it at " + who.From
		case st.Err != nil || st.Lacks() > 0:
			fix = "have a list that has all, dated: " + sign + " --merge OTHER (what this host has seen: " +
				d.path("revocations") + "; docs/policy.md says how lists are had of it), and see that it can be " +
				"read: " + who.From
		}
		switch {
		case stale != nil && who.Keep:
			c.Warn(name, "its approvals count without a current list, as when_unreachable is keep: "+stale.Error(), fix)
		case stale != nil:
			c.Bad(name, "none of its approvals counts: "+stale.Error(), fix)
		case st.Err != nil:
			c.Warn(name, fmt.Sprintf("the newest try to have its list failed, the one of %s is in force: %v",
				st.List.Issued.Format(time.RFC3339), st.Err), fix)
		case st.Lacks() > 0:
			c.Warn(name, fmt.Sprintf("list %d of %s lacks %s of other lists by its key: they count here, but not on a "+
				"host that has not seen those", st.List.Serial, st.List.Issued.Format(time.RFC3339),
				printable.Count(st.Lacks(), "revocation")), fix)
		default:
			c.OK(name, fmt.Sprintf("list %d of %s, %s old, %s", st.List.Serial, st.List.Issued.Format(time.RFC3339),
				now.Sub(st.List.Issued).Round(time.Minute), printable.Count(len(st.List.Revoked), "revocation")))
		}
	}
}
