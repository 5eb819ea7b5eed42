package network

import (
	"errors"
	"fmt"

	"github.com/freejail/freejail/internal/bsd"
)

func noInterface(n Network) error {
	return lack{fmt.Errorf("there is no interface %s", n.Interface),
		"`ifconfig -l` shows which there are: name one of them as interface of the network, or make " + n.Interface}
}

func (s *kernelStacks) check(n Network) error {
	if n.Mode.OwnStack() && !bsd.SysctlOn("kern.features.vimage") {
		return errors.New("this kernel has no network stacks of their own: it needs options VIMAGE")
	}
	if (n.Subnet6.IsValid() || n.Pool6.First.IsValid()) && s.host.inet6 < 0 {
		return errors.New("this kernel has no IPv6")
	}
	if err := forwards(n); err != nil {
		return err
	}
	switch n.Mode {
	case Bridged:
		if err := s.checkBridge(n.Bridge); err != nil {
			return err
		}
		return s.sparesMembers(n.Bridge)
	case Alias, NAT:
		if n.Interface != "" && !s.host.has(n.Interface) {
			return noInterface(n)
		}
	}
	return nil
}
