package network

import (
	"net/netip"
	"testing"
)

// TestForgedRecords has records that no network can have made. A network that is configured otherwise by now
// has made its own all the same.
func TestForgedRecords(t *testing.T) {
	before, _ := newFake(t).manager(nat(), alias(), bridged())
	web, pub, lan := reserve(t, before, "a.2", "web"), reserve(t, before, "b", "pub"), reserve(t, before, "c", "lan")
	none := reserve(t, before, "d", "none")
	change := func(e Endpoint, how func(*Endpoint)) Endpoint { how(&e); return e }
	m, _ := newFake(t).manager()
	for name, e := range map[string]Endpoint{
		"the gateway":        change(web, func(e *Endpoint) { e.Addr4 = addr("10.88.0.1") }),
		"beyond the pool":    change(web, func(e *Endpoint) { e.Addr6 = addr("fd00:88::99") }),
		"of another family":  change(web, func(e *Endpoint) { e.Addr4 = addr("fd00:88::3") }),
		"the broadcast's":    change(pub, func(e *Endpoint) { e.As.Pool4.Last, e.Addr4 = addr("192.0.2.255"), addr("192.0.2.255") }),
		"a pool of all":      change(pub, func(e *Endpoint) { e.As.Pool4 = span("0.0.0.0", "255.255.255.255") }),
		"another's stack":    change(web, func(e *Endpoint) { e.Stack = "fjnet-b" }),
		"a path":             change(web, func(e *Endpoint) { e.Stack = "../../evil" }),
		"another's link":     change(web, func(e *Endpoint) { e.Link = "em0" }),
		"another's MAC":      change(web, func(e *Endpoint) { e.MAC = "02:00:00:00:00:01" }),
		"without its link":   change(lan, func(e *Endpoint) { e.Link = "" }),
		"alias with a stack": change(pub, func(e *Endpoint) { e.Stack = "fjnet-b" }),
		"none with a link":   change(none, func(e *Endpoint) { e.Link = web.Link }),
		"none as nat":        change(none, func(e *Endpoint) { e.Mode = NAT }),
		"another network":    change(web, func(e *Endpoint) { e.Network = "lan" }),
		"as nothing":         change(web, func(e *Endpoint) { e.As = Network{} }),
		"an interface as ..": change(pub, func(e *Endpoint) { e.As.Interface = ".." }),
	} {
		holder := map[string]string{"web": "a.2", "pub": "b", "lan": "c", "none": "d"}[e.As.Name]
		if err := m.Adopt(holder, e); err == nil {
			t.Errorf("%s: %+v was adopted", name, e)
		}
	}
	for holder, e := range map[string]Endpoint{"a.2": web, "b": pub, "c": lan, "d": none} {
		if err := m.Adopt(holder, e); err != nil {
			t.Errorf("%s: %v", holder, err)
		}
	}
}

// TestForgedRecordsAreCutOff: their tasks get no rules, and at their ends nothing of others is taken away.
func TestForgedRecordsAreCutOff(t *testing.T) {
	f := newFake(t)
	m, _ := f.manager(nat())
	mine := reserve(t, m, "mine", "web")
	if err := m.Attach(t.Context(), mine); err != nil {
		t.Fatal(err)
	}
	gateway := mine
	gateway.Addr4, gateway.Stack = nat().Gateway4, "fjnet-bad"
	path := Endpoint{Network: "none", Mode: None, Stack: "../../evil"}
	for _, bad := range []Endpoint{mine, gateway, path} {
		bad.Addr6 = netip.Addr{} // so that it is not that of mine
		task := Task{Key: "bad", Endpoint: bad, Published: []Publication{{Port: Port{Protocol: "tcp", First: 80}, To: 80}}}
		if m.Adopt("bad", bad) == nil {
			t.Fatalf("%+v was adopted", bad)
		}
		if err := m.Sweep(t.Context(), []Task{task}); err != nil {
			t.Error(err)
		}
		if len(f.rules) != 0 || len(f.held) != 0 {
			t.Errorf("%+v has rules %v and ports %v", bad, f.rules, f.held)
		}
		if m.Attach(t.Context(), bad) == nil {
			t.Errorf("%+v was attached", bad)
		}
		if err := m.Detach(t.Context(), bad); err != nil {
			t.Error(err)
		}
		if len(f.made) != 1 || !f.made["fjnet-mine"].same(mine) {
			t.Errorf("made: %v", f.made)
		}
	}
}
