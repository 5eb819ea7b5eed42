package host

import (
	"strings"
	"testing"
)

// Who runs tasks on unions is told what they can do to the host.
func TestDoctorTellsOfUnions(t *testing.T) {
	for driver, told := range map[string]bool{"union": true, "auto": true, "readonly": false, "zfs": false} {
		var c Checks
		c.stateFS(Config{Storage: Storage{Driver: driver}}, "ufs")
		if told != (len(c) == 1 && strings.Contains(c[0].Detail, "panic")) {
			t.Errorf("%s: %+v", driver, c)
		}
	}
}
