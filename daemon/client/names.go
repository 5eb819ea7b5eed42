package client

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// DNS is what a task's resolv.conf says. What is empty is as in the host's.
type DNS struct {
	Servers  []string `json:"servers,omitempty"`  // addresses
	Searches []string `json:"searches,omitempty"` // domains; "." alone is none
	Options  []string `json:"options,omitempty"`  // such as ndots:2
}

// What a resolv.conf and a hosts file can have. The C libraries use the first three servers.
const (
	maxServers = 16
	maxWords   = 64 // domains, and options
	maxHosts   = 1000
)

const label = `[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?`

var (
	domain    = regexp.MustCompile(`^` + label + `(\.` + label + `)*\.?$`)
	dnsOption = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,63}(:[A-Za-z0-9_.-]{1,64})?$`)
	zone      = regexp.MustCompile(`^[A-Za-z0-9_.-]{0,32}$`)
)

// IsEmpty tells that nothing is said.
func (d DNS) IsEmpty() bool { return len(d.Servers)+len(d.Searches)+len(d.Options) == 0 }

// Check finds what a resolv.conf cannot have.
func (d DNS) Check() error {
	if len(d.Servers) > maxServers || len(d.Searches) > maxWords || len(d.Options) > maxWords {
		return fmt.Errorf("dns: at most %d servers, %d searches and %d options are allowed", maxServers, maxWords,
			maxWords)
	}
	for _, s := range d.Servers {
		if a, err := netip.ParseAddr(s); err != nil || !zone.MatchString(a.Zone()) {
			return fmt.Errorf("dns: server %q is not a valid IP address (for example 192.0.2.53)", s)
		}
	}
	for _, s := range d.Searches {
		if s != "." && !ValidHost(s) {
			return fmt.Errorf("dns: search %q is not a valid domain (for example example.com)", s)
		}
	}
	for _, o := range d.Options {
		if !dnsOption.MatchString(o) {
			return fmt.Errorf("dns: %q is not a valid option (for example ndots:2)", o)
		}
	}
	return nil
}

// ValidHost tells whether a text is a host name or a domain.
func ValidHost(s string) bool { return len(s) <= 253 && domain.MatchString(s) }

// HostEntry is a line of a hosts file. The address may be HostGateway.
type HostEntry struct{ Name, Address string }

// HostGateway is docker's word for the host, wherever a task reaches that.
const HostGateway = "host-gateway"

// ParseHost reads NAME:ADDRESS or NAME=ADDRESS, of IPv6 in brackets or without.
func ParseHost(text string) (HostEntry, error) {
	i := strings.IndexAny(text, ":=")
	if i < 0 {
		return HostEntry{}, errors.New("expected NAME:ADDRESS")
	}
	e := HostEntry{text[:i], text[i+1:]}
	if inner, ok := strings.CutPrefix(e.Address, "["); ok {
		e.Address = strings.TrimSuffix(inner, "]")
	}
	if !ValidHost(e.Name) {
		return e, fmt.Errorf("%q is not a valid host name", e.Name)
	}
	if a, err := netip.ParseAddr(e.Address); e.Address != HostGateway && (err != nil || a.Zone() != "") {
		return e, fmt.Errorf("%q is not a valid IP address (for example 192.0.2.7)", e.Address)
	}
	return e, nil
}

// ParseHosts reads a list for ParseHost.
func ParseHosts(list []string) ([]HostEntry, error) {
	if len(list) > maxHosts {
		return nil, fmt.Errorf("at most %d hosts are allowed", maxHosts)
	}
	var out []HostEntry
	for _, text := range list {
		e, err := ParseHost(text)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", text, err)
		}
		out = append(out, e)
	}
	return out, nil
}
