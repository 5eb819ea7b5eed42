package host

import (
	"fmt"
	"net/netip"
	"net/url"

	"github.com/hashicorp/hcl/v2"
)

// tracingBlock says where spans of starts are sent.
type tracingBlock struct {
	Endpoint string   `hcl:"endpoint"`
	Body     hcl.Body `hcl:",body"`
}

// tracing is the URL of a collector that speaks OTLP over HTTP; empty without the block.
func (f *file) tracing(r *reader) string {
	b := f.Tracing
	if b == nil {
		return ""
	}
	at := b.Body.MissingItemRange()
	where := fmt.Sprintf("%s:%d: tracing: endpoint %q", at.Filename, at.Start.Line, b.Endpoint)
	u, err := url.Parse(b.Endpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "":
		r.fail("%s is not a URL of a collector (for example http://127.0.0.1:4318)", where)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		r.fail("%s is not a loopback address: spans name jobs and images, use https", where)
	case u.Path == "" || u.Path == "/":
		u.Path = "/v1/traces"
	}
	if u == nil {
		return ""
	}
	return u.String()
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}
