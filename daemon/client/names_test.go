package client

import (
	"fmt"
	"strings"
	"testing"
)

func TestDNS(t *testing.T) {
	for _, good := range []DNS{{}, {Servers: []string{"192.0.2.53", "::1", "fe80::1%em0"}},
		{Searches: []string{".", "example.com", "a_b.example.", "x"}, Options: []string{"ndots:2", "use-vc", "attempts:5"}}} {
		if err := good.Check(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for _, bad := range []DNS{{Servers: []string{""}}, {Servers: []string{"dns.example.com"}},
		{Servers: []string{"192.0.2.53:53"}}, {Servers: []string{"192.0.2.53\nnameserver 192.0.2.66"}},
		{Servers: []string{"fe80::1%em0\noptions x"}}, {Servers: []string{"fe80::1%em 0"}},
		{Servers: make([]string, maxServers+1)},
		{Searches: []string{"a b"}}, {Searches: []string{"a\nb"}}, {Searches: []string{""}}, {Searches: []string{"-a.b"}},
		{Searches: []string{strings.Repeat("a.", 127) + "b"}}, {Searches: make([]string, maxWords+1)},
		{Options: []string{"ndots:2\nnameserver 192.0.2.66"}}, {Options: []string{"a b"}}, {Options: []string{""}},
		{Options: make([]string, maxWords+1)}} {
		if err := bad.Check(); err == nil || !strings.HasPrefix(err.Error(), "dns: ") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestParseHost(t *testing.T) {
	for text, want := range map[string]HostEntry{"db:192.0.2.7": {"db", "192.0.2.7"}, "db=192.0.2.7": {"db", "192.0.2.7"},
		"db.example.com:2001:db8::7": {"db.example.com", "2001:db8::7"}, "db:[::1]": {"db", "::1"},
		"host.docker.internal:host-gateway": {"host.docker.internal", HostGateway}} {
		if got, err := ParseHost(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "db", "db:", ":192.0.2.7", "db:example.com", "db:192.0.2.7\n192.0.2.8 x", "d b:192.0.2.7",
		"db\n:192.0.2.7", "db:fe80::1%em0", "db:192.0.2.7 x"} {
		if got, err := ParseHost(bad); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
	var many []string
	for i := range maxHosts + 1 {
		many = append(many, fmt.Sprintf("h%d:192.0.2.7", i))
	}
	if _, err := ParseHosts(many); err == nil {
		t.Error("too many are taken")
	}
	if list, err := ParseHosts(many[1:]); err != nil || len(list) != maxHosts {
		t.Error(len(list), err)
	}
}
