package network

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// DroppedForwards names the chains of other programs that drop what is forwarded unless a rule there accepts it, in
// the words of `nft list chain`: a nat network is cut off by them, whatever freejail's own table accepts.
func DroppedForwards() ([]string, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list the chains of nftables: %w", err)
	}
	var names []string
	for _, ch := range chains {
		if ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward && ch.Policy != nil &&
			*ch.Policy == nftables.ChainPolicyDrop && !strings.HasPrefix(ch.Table.Name, "freejail-") {
			names = append(names, fmt.Sprintf("%s %s %s", familyWords[ch.Table.Family], ch.Table.Name, ch.Name))
		}
	}
	slices.Sort(names)
	return names, nil
}

// familyWords are those of nft(8) for the families that forward packets of IP.
var familyWords = map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
	nftables.TableFamilyINet: "inet", nftables.TableFamilyBridge: "bridge"}
