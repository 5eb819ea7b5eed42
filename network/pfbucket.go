package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// pfBuckets is how many anchors below freejail's have what leads to tasks: so many that a start loads a few rules,
// and so few that they leave room to others' (PF_ANCHOR_HIWAT of netpfil/pf/pf.h is 512 for the whole host).
const pfBuckets = 64

// pfBucket is one of them. It is loaded alone and as a whole.
type pfBucket struct {
	hairpins  []pfHairpin
	redirects []pfRedirect
}

// bucketAnchor is its path.
func bucketAnchor(i int) string { return fmt.Sprintf("%s/%02d", pfAnchor, i) }

// bucketOf spreads the addresses of a pool evenly, as they are given one after the other.
func bucketOf(s *pfStack) int {
	a := s.addrs[0].Unmap().AsSlice()
	return int(a[len(a)-1]) % pfBuckets
}

// pfTranslation is a rule of a bucket.
type pfTranslation interface{ text() pfText }

// add keeps what is there already from being there twice, which the kernel refuses.
func (b *pfBucket) add(t pfTranslation) {
	switch t := t.(type) {
	case pfHairpin:
		if !slices.Contains(b.hairpins, t) {
			b.hairpins = append(b.hairpins, t)
		}
	case pfRedirect:
		if !slices.Contains(b.redirects, t) {
			b.redirects = append(b.redirects, t)
		}
	}
}

func (b pfBucket) empty() bool { return len(b.hairpins)+len(b.redirects) == 0 }

func (b pfBucket) equal(o pfBucket) bool {
	return slices.Equal(b.hairpins, o.hairpins) && slices.Equal(b.redirects, o.redirects)
}

// text is the bucket for `pfctl -a freejail/NN -f -`.
func (b pfBucket) text() string {
	var out strings.Builder
	for _, h := range b.hairpins {
		fmt.Fprintln(&out, h.text())
	}
	for _, r := range b.redirects {
		fmt.Fprintln(&out, r.text())
	}
	return out.String()
}

// pfHairpin has what a task sends to itself come from the gateway.
type pfHairpin struct {
	bridge        pfText
	task, gateway netip.Addr
}

func (h pfHairpin) text() pfText {
	return pfText{fmt.Sprintf("nat on %s %s from %s to %[3]s -> %s", h.bridge, pfFamily(h.task), pfAddress(h.task),
		pfAddress(h.gateway))}
}

// pfRedirect leads a published port to a task: at one address of the host's, or where at is not valid at those
// that the anchor's own line lets by.
type pfRedirect struct {
	at     netip.Addr
	port   Port
	to     netip.Addr
	toPort uint16
}

// last is the last of the ports.
func (r pfRedirect) last() uint16 { return r.port.First + max(r.port.Count, 1) - 1 }

func (r pfRedirect) text() pfText {
	at, ports, toPorts := "any", fmt.Sprint(r.port.First), fmt.Sprint(r.toPort)
	if r.at.IsValid() {
		at = pfAddress(r.at).text
	}
	if r.last() != r.port.First {
		ports, toPorts = fmt.Sprintf("%d:%d", r.port.First, r.last()), fmt.Sprintf("%d:*", r.toPort)
	}
	return pfText{fmt.Sprintf("rdr on ! lo0 %s proto %s from any to %s port %s tag freejail_in -> %s port %s",
		pfFamily(r.to), r.port.Protocol, at, ports, pfAddress(r.to), toPorts)}
}
