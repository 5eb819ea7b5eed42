package buildjail

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/image/build"
	"github.com/freejail/freejail/internal/mount"
)

const needsLinuxulator = true

// keep has nothing to do: a jail outlasts its processes.
func (k *kept) keep(context.Context) (bool, error) { return true, nil }

func networkParams(network string) (map[string]string, error) {
	if network == build.NetworkNone {
		return map[string]string{"ip4": "disable", "ip6": "disable"}, nil
	}
	return map[string]string{"ip4": "inherit", "ip6": "inherit"}, nil
}

// The host's own rulesets for jails, of /etc/defaults/devfs.rules: the second
// includes the first.
const (
	hideAll = 1 // devfsrules_hide_all
	forJail = 4 // devfsrules_jail
)

// mountDev mounts devfs under the host's ruleset for jails. The kernel takes a
// ruleset that is not loaded for an empty one, which hides nothing.
func (m *mounter) mountDev() error {
	if err := checkRulesets(); err != nil {
		return err
	}
	return m.dir("/dev", mount.Mount{Type: "devfs", Options: []string{"ruleset=" + strconv.Itoa(forJail)}})
}

func checkRulesets() error {
	k, err := devfs.OpenKernel()
	if err != nil {
		return err
	}
	hide, err := k.Rules(hideAll)
	if err == nil && (len(hide) == 0 || !hide[0].Hide || hide[0].Path != "") {
		err = fmt.Errorf("devfs ruleset %d does not hide everything", hideAll)
	}
	if err == nil {
		var rules []devfs.Rule
		if rules, err = k.Rules(forJail); err == nil && len(rules) == 0 {
			err = fmt.Errorf("devfs ruleset %d is empty", forJail)
		}
	}
	if err != nil {
		return errors.Join(errors.New("RUN needs the standard devfs rulesets: load them by `service devfs restart`"),
			err)
	}
	return nil
}
