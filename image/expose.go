package image

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxExposed bounds the ports that an image without a manifest has by its config:
// builders write each port of a range there.
const maxExposed = 64

// Exposed are the ports that a config exposes, such as 80/tcp, 53/udp or 8000-8010, by
// their numbers: the first maxExposed of them. They are named 80 and 53-udp. odd are
// those that are left out. Of ranges, which may be many and wide, no more is counted
// out than is kept.
func Exposed(ports map[string]struct{}) (list []Port, odd []string) {
	ranges := map[string][]portRange{} // by protocol
	for text := range ports {
		r, protocol, err := parseExposed(text)
		if err != nil {
			odd = append(odd, text)
			continue
		}
		ranges[protocol] = append(ranges[protocol], r)
	}
	slices.Sort(odd)
	for protocol, rs := range ranges {
		list = append(list, lowest(rs, maxExposed+1, protocol)...)
	}
	slices.SortFunc(list, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	if len(list) > maxExposed {
		odd = append(odd, fmt.Sprintf("those from %s on", list[maxExposed].Name))
		list = list[:maxExposed]
	}
	return list, odd
}

type portRange struct{ first, last int }

// lowest are the first n ports of ranges that may overlap.
func lowest(ranges []portRange, n int, protocol string) (list []Port) {
	slices.SortFunc(ranges, func(a, b portRange) int { return cmp.Compare(a.first, b.first) })
	next := 0
	for _, r := range ranges {
		for next = max(next, r.first); next <= r.last; next++ {
			if len(list) == n {
				return list
			}
			p := Port{Name: strconv.Itoa(next), Port: next, Protocol: protocol}
			if protocol == "udp" {
				p.Name += "-udp"
			}
			list = append(list, p)
		}
	}
	return list
}

// parseExposed reads FIRST[-LAST][/PROTOCOL].
func parseExposed(text string) (r portRange, protocol string, err error) {
	ports, protocol, _ := strings.Cut(strings.ToLower(text), "/")
	lo, hi, isRange := strings.Cut(ports, "-")
	r.first, err = strconv.Atoi(lo)
	if r.last = r.first; err == nil && isRange {
		r.last, err = strconv.Atoi(hi)
	}
	protocol = cmp.Or(protocol, "tcp")
	if err == nil && (r.first < 1 || r.last > 65535 || r.first > r.last || protocol != "tcp" && protocol != "udp") {
		err = fmt.Errorf("%q is not a valid port", text)
	}
	return r, protocol, err
}
