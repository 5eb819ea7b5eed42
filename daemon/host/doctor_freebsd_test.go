package host

import "testing"

// Before 15 the kernel lets a user of the host at the processes of a jail that have the
// same uid.
func TestIsolationFromTheHostsUsers(t *testing.T) {
	for _, c := range []struct {
		release uint32
		sees    bool
		status  string
	}{
		{1400097, true, "warning"}, {1403000, true, "warning"}, {1499999, true, "warning"}, {1403000, false, "ok"},
		{1500000, true, "ok"}, {1501000, false, "ok"},
	} {
		var got Checks
		got.isolationOf(c.release, c.sees)
		if len(got) != 1 || got[0].Status != c.status || c.status == "warning" && got[0].Fix == "" {
			t.Errorf("on %d, where users see jails %v: %+v, want %s", c.release, c.sees, got, c.status)
		}
	}
	var here Checks
	here.isolation()
	if len(here) != 1 || here[0].Status == "error" {
		t.Errorf("here: %+v", here)
	}
}
