package client

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

var errPublish = errors.New("expected [[ADDRESS:]PORT:]PORT, with /udp for UDP, the host's port before the task's; a " +
	"port may be a range (8000-8010), and an address of IPv6 has brackets")

var errNoPort = errors.New("freejail chooses no port of the host: give one before the task's, as in 8081:8080 or " +
	"127.0.0.1:8081:8080")

// ParsePublication reads [[ADDRESS:]PORT:]PORT[/PROTOCOL], the last port being the task's. Either
// port may be a range, FIRST-LAST, of as many as the other.
func ParsePublication(text string) (p Publication, err error) {
	ports, protocol, given := strings.Cut(text, "/")
	if p.Protocol = "tcp"; given {
		p.Protocol = strings.ToLower(protocol)
	}
	if p.Protocol != "tcp" && p.Protocol != "udp" {
		return p, fmt.Errorf("%q: the protocol %q is neither tcp nor udp", text, protocol)
	}
	place, inside := ports, ports
	if i := strings.LastIndexByte(ports, ':'); i >= 0 {
		place, inside = ports[:i], ports[i+1:]
	}
	if i := strings.LastIndexByte(place, ':'); i >= 0 {
		if p.Address, err = parseHostAddress(place[:i]); err != nil {
			return p, fmt.Errorf("%q: %w", text, err)
		}
		place = place[i+1:]
	}
	to := 0
	if p.Port, p.Count, err = parseRange(place); err == nil {
		p.To, to, err = parseRange(inside)
	}
	switch {
	case place != ports && (place == "" || place == "0"):
		return p, fmt.Errorf("%q: %w", text, errNoPort)
	case err != nil:
		return p, fmt.Errorf("%q: %w", text, err)
	case p.Count != to:
		return p, fmt.Errorf("%q: %d ports of the host are led to %d of the task", text, max(1, p.Count), max(1, to))
	}
	return p, nil
}

// parseHostAddress reads an address as it stands before a port.
func parseHostAddress(text string) (string, error) {
	bare := strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")
	a, err := netip.ParseAddr(bare)
	switch {
	case err != nil && !strings.ContainsAny(text, ":[]"):
		return "", fmt.Errorf("%q is not an IP address of this host (for example 192.0.2.7): %w", text, errPublish)
	case err != nil || a.Is6() != (text == "["+bare+"]") || a.Is4() && text != bare:
		return "", errPublish
	}
	return a.String(), nil
}

// parseRange reads PORT or FIRST-LAST; count is 0 of one port.
func parseRange(text string) (first, count int, err error) {
	lo, hi, is := strings.Cut(text, "-")
	if first, err = parsePort(lo); err != nil || !is {
		return first, 0, err
	}
	last, err := parsePort(hi)
	if err == nil && last < first {
		err = fmt.Errorf("%s is not a range of ports", text)
	}
	if count = last - first + 1; count == 1 {
		count = 0
	}
	return first, count, err
}

func parsePort(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	switch {
	case err != nil:
		return 0, errPublish
	case n < 1 || n > 65535:
		return 0, fmt.Errorf("%d is not a valid port (1 to 65535)", n)
	}
	return int(n), nil
}

// String is what ParsePublication reads.
func (p Publication) String() string {
	place := ""
	if p.Address != "" {
		place = p.Address + ":"
		if strings.Contains(p.Address, ":") {
			place = "[" + p.Address + "]:"
		}
	}
	return place + Ports(p.Port, p.Count) + ":" + Ports(p.To, p.Count) + "/" + p.Protocol
}

// Ports writes a port, or a range of them: 8000-8010.
func Ports(first, count int) string {
	if count > 1 {
		return fmt.Sprintf("%d-%d", first, first+count-1)
	}
	return strconv.Itoa(first)
}
