package task

import (
	"errors"
	"fmt"
	"strings"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/devfs"
	"github.com/freejail/freejail/policy"
)

// device is a node of the host's /dev with what a task may do with it.
type device struct {
	devfs.Device
	access string // of r, w and m
}

// addDevices asks for devices by their names as for rules of devfs(8) of the job.
func (p *plan) addDevices(spec client.TaskSpec) error {
	for _, want := range spec.Devices {
		if err := p.addDevice(want); err != nil {
			return client.Invalid("device %s: %v", want.Path, err)
		}
	}
	return nil
}

func (p *plan) addDevice(want client.Device) error {
	name, below := strings.CutPrefix(want.Path, "/dev/")
	if !below {
		return errors.New("it does not lie in /dev")
	}
	if err := checkAccess(want.Permissions); err != nil {
		return err
	}
	d, err := devfs.FindDevice(name)
	if err != nil {
		return err
	}
	rules, err := d.Rules()
	if err != nil {
		return err
	}
	for _, rule := range rules {
		p.rules = append(p.rules, rule)
		p.ask(policy.Devfs{Rule: rule}, policy.FromJob)
	}
	p.devices = append(p.devices, device{d, want.Permissions})
	return nil
}

// checkAccess refuses what the kernel would not keep to.
func checkAccess(access string) error {
	for _, c := range access {
		if !strings.ContainsRune("rwm", c) || strings.Count(access, string(c)) > 1 {
			return fmt.Errorf("permissions %q: expected some of r, w and m", access)
		}
	}
	return checkPlatformAccess(access)
}
