package network

import (
	"errors"
	"fmt"

	"github.com/freejail/freejail/internal/bsd"
)

// forwards tells of a host that is no router for a nat network, which is the operator's to change.
func forwards(n Network) error {
	if n.Mode != NAT {
		return nil
	}
	var errs []error
	for _, f := range []struct {
		needed               bool
		family, sysctl, conf string
	}{
		{n.Subnet4.IsValid(), "IPv4", "net.inet.ip.forwarding", "gateway_enable"},
		{n.Subnet6.IsValid(), "IPv6", "net.inet6.ip6.forwarding", "ipv6_gateway_enable"},
	} {
		if f.needed && !bsd.SysctlOn(f.sysctl) {
			fix := fmt.Sprintf("sysrc %s=YES && sysctl %s=1", f.conf, f.sysctl)
			errs = append(errs, lack{fmt.Errorf("this host does not forward %s: %s", f.family, fix), fix})
		}
	}
	return errors.Join(errs...)
}
