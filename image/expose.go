package image

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// maxExposed bounds the ports that an image without a manifest has by its config:
// builders write each port of a range there.
const maxExposed = 64

// Exposed are the ports that a config exposes, such as 80/tcp, 53/udp or 8000-8010, by
// their numbers: the first maxExposed of them. They are named 80 and 53-udp. odd are
// those that are left out.
func Exposed(ports map[string]struct{}) (list []Port, odd []string) {
	for _, text := range slices.Sorted(maps.Keys(ports)) {
		first, last, protocol, err := parseExposed(text)
		if err != nil {
			odd = append(odd, text)
			continue
		}
		for n := first; n <= min(last, first+maxExposed); n++ { // one more than is kept
			p := Port{Name: strconv.Itoa(n), Port: n, Protocol: protocol}
			if protocol == "udp" {
				p.Name += "-udp"
			}
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	list = slices.CompactFunc(list, func(a, b Port) bool { return a.Name == b.Name })
	if len(list) > maxExposed {
		odd = append(odd, fmt.Sprintf("those from %s on", list[maxExposed].Name))
		list = list[:maxExposed]
	}
	return list, odd
}

// parseExposed reads FIRST[-LAST][/PROTOCOL].
func parseExposed(text string) (first, last int, protocol string, err error) {
	ports, protocol, _ := strings.Cut(strings.ToLower(text), "/")
	lo, hi, isRange := strings.Cut(ports, "-")
	first, err = strconv.Atoi(lo)
	if last = first; err == nil && isRange {
		last, err = strconv.Atoi(hi)
	}
	protocol = cmp.Or(protocol, "tcp")
	if err == nil && (first < 1 || last > 65535 || first > last || protocol != "tcp" && protocol != "udp") {
		err = fmt.Errorf("%q is not a valid port", text)
	}
	return first, last, protocol, err
}
