package network

import (
	"errors"
	"fmt"
	"slices"
	"strings"

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
	if err := secured(n, bsd.SecureLevel(), bsd.HasModule); err != nil {
		return err
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

// secured tells what a network needs and kern.securelevel keeps this host from: above 0 modules are not loaded, above
// 2 nobody changes pf's rules (pfioctl of netpfil/pf/pf_ioctl.c).
func secured(n Network, level int, loaded func(module string) bool) error {
	var modules []string
	switch n.Mode {
	case NAT:
		modules = []string{"if_epair", "if_bridge"}
	case Bridged:
		modules = []string{"if_epair"}
	}
	if modules = slices.DeleteFunc(modules, loaded); level > 0 && len(modules) > 0 {
		names := strings.Join(modules, " ")
		fix := fmt.Sprintf("sysrc kld_list+=%q && shutdown -r now", names)
		return lack{fmt.Errorf("kern.securelevel is %d and %s cannot be loaded: have it loaded when the host "+
			"starts: %s", level, names, fix), fix}
	}
	if n.Mode == NAT && level > 2 {
		return fmt.Errorf("kern.securelevel is %d, with which nobody changes pf's rules: a network of mode nat "+
			"needs 2 or less", level)
	}
	return nil
}
