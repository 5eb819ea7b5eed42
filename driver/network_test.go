package driver

import (
	"maps"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers/proto"

	"github.com/freejail/freejail/daemon/client"
)

// What Nomad is told of a task's network decides where its services are.
func TestNetworkOverride(t *testing.T) {
	info := func(mode string) *client.NetworkInfo {
		return &client.NetworkInfo{Mode: mode, Addr4: netip.MustParseAddr("10.88.0.7"),
			Addr6: netip.MustParseAddr("fd00::7")}
	}
	six := &client.NetworkInfo{Mode: "bridged", Addr6: netip.MustParseAddr("fd00::7")}
	mapped := []client.Port{{Name: "http", Address: "192.0.2.1", Port: 20001, To: 8080}}
	same := []client.Port{{Name: "http", Address: "192.0.2.1", Port: 20001}}
	for name, c := range map[string]struct {
		network   *client.NetworkInfo
		ports     []client.Port
		addr      string
		advertise bool
		http      int32
	}{
		"host":       {nil, same, "", false, 0},
		"nat":        {info("nat"), mapped, "10.88.0.7", false, 8080},
		"bridged":    {info("bridged"), mapped, "10.88.0.7", true, 8080},
		"alias":      {info("alias"), mapped, "10.88.0.7", true, 8080},
		"IPv6 alone": {six, mapped, "fd00::7", true, 8080},
		"none":       {&client.NetworkInfo{Mode: "none"}, nil, "", false, 0},
	} {
		got := network(&client.Task{Network: c.network, Ports: c.ports})
		if got.GetAddr() != c.addr || got.GetAutoAdvertise() != c.advertise || got.GetPortMap()["http"] != c.http {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := network(&client.Task{}); got != nil {
		t.Errorf("a task without ports on the host's network: %+v", got)
	}
}

func TestNetworkKeys(t *testing.T) {
	tc := TaskConfig{Image: "x", Network: "web", Address: []string{"10.88.0.7"}, Share: "group",
		Publish: []string{"8081:8080", "[::1]:53:53/udp"}}
	s, err := spec(twoPorts(), tc)
	want := client.TaskSpec{Network: "web", Addresses: []string{"10.88.0.7"}, Share: "group",
		Publish: []client.Publication{{Port: 8081, To: 8080, Protocol: "tcp"},
			{Address: "::1", Port: 53, To: 53, Protocol: "udp"}}}
	got := client.TaskSpec{Network: s.Network, Addresses: s.Addresses, Share: s.Share, Publish: s.Publish}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v %v, want %+v", got, err, want)
	}
	if err := (&TaskConfig{Share: "alloc"}).validate(Config{}); err == nil ||
		!strings.Contains(err.Error(), `share "alloc": expected group`) {
		t.Errorf("share: %v", err)
	}
	if _, err := spec(twoPorts(), TaskConfig{Publish: []string{"x"}}); err == nil ||
		!strings.Contains(err.Error(), "publish: ") {
		t.Errorf("publish: %v", err)
	}
}

// A network that Nomad made would be passed over.
func TestNetworkIsolation(t *testing.T) {
	cfg := twoPorts()
	for mode, want := range map[proto.NetworkIsolationSpec_NetworkIsolationMode]string{
		proto.NetworkIsolationSpec_HOST: "", proto.NetworkIsolationSpec_GROUP: `mode = "bridge"`,
		proto.NetworkIsolationSpec_NONE: `mode = "none"`} {
		cfg.NetworkIsolationSpec = &proto.NetworkIsolationSpec{Mode: mode}
		_, err := spec(cfg, TaskConfig{Image: "x"})
		if (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", mode, err)
		}
	}
}

// With a network whose tasks Nomad's services show at their own address, they show the number of to.
func TestPortsHaveTo(t *testing.T) {
	info := &client.Info{Networks: map[string]string{"host": "host", "web": "nat", "lan": "bridged", "out": "alias"},
		DefaultNetwork: "lan"}
	for network, wrong := range map[string]bool{"host": false, "web": false, "lan": true, "out": true, "": true} {
		s, err := spec(twoPorts(), TaskConfig{Image: "x", Network: network})
		if err != nil {
			t.Fatal(err)
		}
		err = checkTo(info, s)
		if (err != nil) != wrong || err != nil && !strings.Contains(err.Error(), `port "http"`) {
			t.Errorf("%s: %v", network, err)
		}
		maps.DeleteFunc(s.Ports, func(name string, _ client.PortBinding) bool { return name == "http" })
		if err := checkTo(info, s); err != nil {
			t.Errorf("%s, where all have it: %v", network, err)
		}
	}
}
