package driver

import (
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers/proto"

	"github.com/freejail/freejail/daemon/client"
)

// The group's dns and the task's are the same thing, and one of them is said.
func TestDNS(t *testing.T) {
	group := &proto.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"a.example"}, Options: []string{"ndots:2"}}
	all := client.DNS{Servers: group.Servers, Searches: group.Searches, Options: group.Options}
	for name, c := range map[string]struct {
		group *proto.DNSConfig
		own   client.DNS
		want  *client.DNS
		err   string
	}{
		"nothing":            {nil, client.DNS{}, nil, ""},
		"an empty block":     {&proto.DNSConfig{}, client.DNS{}, nil, ""},
		"the group's":        {group, client.DNS{}, &all, ""},
		"the task's":         {nil, all, &all, ""},
		"both":               {group, client.DNS{Options: []string{"use-vc"}}, nil, "remove one"},
		"one that is faulty": {&proto.DNSConfig{Servers: []string{"x"}}, client.DNS{}, nil, "not a valid IP address"},
	} {
		s, err := spec(&proto.TaskConfig{Id: "a/b/c", Dns: c.group}, TaskConfig{Image: "x", DNS: dnsConfig(c.own),
			ExtraHosts: []string{"db:192.0.2.7"}})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(s.DNS, c.want) || len(s.ExtraHosts) != 1 {
			t.Errorf("%s: %+v, %v", name, s.DNS, err)
		}
	}
	for want, c := range map[string]TaskConfig{"dns: search": {DNS: dnsConfig{Searches: []string{"a b"}}},
		"extra_hosts: ": {ExtraHosts: []string{"db"}}} {
		if err := c.validate(Config{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
