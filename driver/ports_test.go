package driver

import (
	"maps"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers/proto"

	"github.com/freejail/freejail/daemon/client"
)

// twoPorts is a task of a group with two ports.
func twoPorts() *proto.TaskConfig {
	return &proto.TaskConfig{Id: "alloc/web/1", Name: "web", AllocDir: "/n/alloc",
		Resources: &proto.Resources{Ports: []*proto.PortMapping{{Label: "http", Value: 20001, HostIp: "10.0.0.1"},
			{Label: "dns", Value: 20002, To: 53, HostIp: "10.0.0.1"}}}}
}

// decoded is what a task config that an agent sends has for ports.
func decoded(t *testing.T, ports any) any {
	t.Helper()
	var tc TaskConfig
	if err := base.MsgPackDecode(taskConfig(t, map[string]any{"image": "x", "ports": ports}), &tc); err != nil {
		t.Fatal(err)
	}
	return tc.Ports
}

func offered(b client.PortBinding) client.PortBinding {
	b.Offered = true
	return b
}

func TestPortsOfAGroup(t *testing.T) {
	http := client.PortBinding{Address: "10.0.0.1", Port: 20001, Label: "http"}
	dns := client.PortBinding{Address: "10.0.0.1", Port: 20002, Label: "dns", To: 53}
	udp := dns
	udp.Protocol = "udp"
	for name, c := range map[string]struct {
		ports any
		want  map[string]client.PortBinding
	}{
		"nothing said":    {nil, map[string]client.PortBinding{"http": offered(http), "dns": offered(dns)}},
		"none":            {[]string{}, map[string]client.PortBinding{}},
		"a list":          {[]string{"dns"}, map[string]client.PortBinding{"dns": dns}},
		"a protocol":      {[]string{"http", "dns/udp"}, map[string]client.PortBinding{"http": http, "dns": udp}},
		"a map":           {map[string]string{"web": "http"}, map[string]client.PortBinding{"web": http}},
		"the same names":  {map[string]string{"dns": "dns/udp"}, map[string]client.PortBinding{"dns": udp}},
		"a number alone":  {[]string{"8080/udp"}, map[string]client.PortBinding{"8080": {Port: 8080, Protocol: "udp"}}},
		"an attribute":    {[]map[string]string{{"web": "http"}}, map[string]client.PortBinding{"web": http}},
		"a number":        {map[string]any{"web": 8080}, map[string]client.PortBinding{"web": {Port: 8080}}},
		"a number's text": {map[string]any{"web": "8080"}, map[string]client.PortBinding{"web": {Port: 8080}}},
	} {
		if got, err := portBindings(twoPorts(), decoded(t, c.ports)); err != nil || !maps.Equal(got, c.want) {
			t.Errorf("%s: %+v %v, want %+v", name, got, err, c.want)
		}
	}
	for _, none := range []any{[]string{}, map[string]string{}, []map[string]string{{}}} {
		if s, err := spec(twoPorts(), TaskConfig{Image: "x", Ports: decoded(t, none)}); err != nil || !s.NoPorts {
			t.Errorf("%v: %v", none, err)
		}
	}
	if s, err := spec(twoPorts(), TaskConfig{Image: "x"}); err != nil || s.NoPorts {
		t.Errorf("nothing said: %v", err)
	}
	for name, c := range map[string]struct {
		ports any
		want  string
	}{
		"a label that is none":      {[]string{"htp"}, `"htp" is neither a port of the group's network block nor a number; it has: dns, http`},
		"one in a map":              {map[string]string{"http": "htp"}, `it has: dns, http`},
		"a word":                    {"http", "expected labels"},
		"lists in a list":           {[]any{[]string{"http"}}, "expected labels"},
		"what is no label in a map": {map[string]any{"http": true}, "expected labels"},
	} {
		if _, err := portBindings(twoPorts(), decoded(t, c.ports)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	own := &proto.TaskConfig{Resources: &proto.Resources{AllocatedResources: &proto.AllocatedTaskResources{
		Networks: []*proto.NetworkResource{{Ip: "10.0.0.2", DynamicPorts: []*proto.NetworkPort{{Label: "a", Value: 20003}},
			ReservedPorts: []*proto.NetworkPort{{Label: "b", Value: 80}}}}}}}
	got, err := portBindings(own, nil)
	want := map[string]client.PortBinding{"a": {Address: "10.0.0.2", Port: 20003, Label: "a"},
		"b": {Address: "10.0.0.2", Port: 80, Label: "b"}}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("ports of the task's own network: %+v %v", got, err)
	}
}
