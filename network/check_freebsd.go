package network

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/internal/bsd"
)

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
		return s.checkBridge(n.Bridge)
	case Alias, NAT:
		if n.Interface != "" && !s.host.has(n.Interface) {
			return fmt.Errorf("there is no interface %s", n.Interface)
		}
	}
	return nil
}

// sizeBridgeParam is struct ifbropreq, sizeMembers struct ifbifconf of net/if_bridgevar.h.
const sizeBridgeParam, sizeMembers = 56, 16

// hasMembers is true where it cannot be told. Without room for them the kernel tells what they would take.
func (s *kernelStacks) hasMembers(bridge string) bool {
	b := make([]byte, sizeMembers)
	err := s.host.bridge(unix.SIOCGDRVSPEC, bridge, bridgeMembers, b)
	return err != nil || binary.NativeEndian.Uint32(b) > 0
}
