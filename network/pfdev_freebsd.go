package network

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const pfDevice = "/dev/pf"

// pfiocRule is struct pfioc_rule of net/pfvar.h, the same in FreeBSD 14 and 15.
type pfiocRule struct {
	Action, Ticket, PoolTicket, NR uint32
	Anchor, AnchorCall             [1024]byte
	Rule                           [976]byte
}

// pfRuleAction is where struct pf_rule has its action, by which the kernel knows the kind of a rule set.
const pfRuleAction = 904

// diocGetRules is DIOCGETRULES of net/pfvar.h: _IOWR('D', 6, struct pfioc_rule).
const diocGetRules = 0xc0000000 | unsafe.Sizeof(pfiocRule{})<<16 | 'D'<<8 | 6

// pfActions are PF_PASS, PF_NAT and PF_RDR of netpfil/pf/pf.h.
var pfActions = [...]byte{0, 4, 8}

// pfRuleset is one of an anchor's rule sets: how many rules it has, and a number that each change makes
// another.
type pfRuleset struct{ ticket, rules uint32 }

// pfRulesets are those of an anchor, rules, nat and rdr; none where it has none.
func pfRulesets(anchor string) ([]pfRuleset, error) {
	dev, err := os.Open(pfDevice)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	var all []pfRuleset
	for _, action := range pfActions {
		r := pfiocRule{}
		copy(r.Anchor[:len(r.Anchor)-1], anchor)
		r.Rule[pfRuleAction] = action
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, dev.Fd(), uintptr(diocGetRules), uintptr(unsafe.Pointer(&r)))
		if errors.Is(errno, unix.EINVAL) { // there is no such anchor
			return nil, nil
		}
		if errno != 0 {
			return nil, fmt.Errorf("%s: rules of the anchor %s: %w", pfDevice, anchor, errno)
		}
		all = append(all, pfRuleset{r.Ticket, r.NR})
	}
	return all, nil
}
