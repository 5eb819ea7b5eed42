package task

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/network"
)

// startOn starts a task on a network of a fake host.
func (h *fakeHost) startOn(m *Manager, spec client.TaskSpec) error {
	h.t.Helper()
	_, job, err := m.Works.Begin(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	defer job.End()
	_, err = m.Start(h.t.Context(), job, spec)
	return err
}

var stackSteps = []string{"address", "ruleset", "root", "mounts", "network", "publish", "jail", "process"}

// A stack of its own is three steps more, and what is made is journalled first.
func TestEachStepInAStackFails(t *testing.T) {
	needsNodes(t)
	for _, fails := range stackSteps {
		t.Run(fails, func(t *testing.T) {
			h := &fakeHost{t: t, fails: fails, dir: t.TempDir()}
			m := h.manager()
			err := h.startOn(m, client.TaskSpec{ID: "one", Image: "prog", Network: "lan"})
			if err == nil || !strings.Contains(err.Error(), errFake.Error()) {
				t.Errorf("the start: %v", err)
			}
			h.gone(m, unwound(stackSteps, fails))
			if len(h.endpoints) > 0 || len(m.shared.reserved) > 0 || len(m.shared.attached) > 0 || len(m.ports) > 0 {
				t.Errorf("left: %v %+v %v", h.endpoints, &m.shared, m.ports)
			}
		})
	}
}

func TestLifeInAStack(t *testing.T) {
	needsNodes(t)
	h := &fakeHost{t: t, dir: t.TempDir()}
	m := h.manager()
	h.networks.taken = 2
	if err := h.startOn(m, client.TaskSpec{ID: "one", Image: "prog", Network: "lan",
		Ports: map[string]client.PortBinding{"web": {Address: "127.0.0.1", Port: 1, Protocol: "udp"}}}); err != nil {
		t.Fatal(err)
	}
	i, err := m.Task("one")
	if err != nil || i.Network == nil || i.Network.Link != "link0xx" || i.Network.Addr4 != fakeEndpoint.Addr4 {
		t.Errorf("%+v %v", i.Network, err)
	}
	if p := h.published; len(p) != 1 || len(p[0].Published) != 1 || p[0].Published[0].First != 1 || p[0].Published[0].To != 8080 ||
		p[0].Link != "link0xx" {
		t.Errorf("published: %+v", p)
	}
	if _, err := m.Stop(t.Context(), "one", client.StopRequest{}); err != nil {
		t.Error(err)
	}
	if err := m.Destroy(t.Context(), "one", false); err != nil {
		t.Fatal(err)
	}
	h.gone(m, "+address +ruleset +root +mounts +network +publish +jail +process +service "+
		"-service -service -jail -publish -network -root -ruleset -address")
}

// Tasks of an allocation have one stack, which goes with the last of them.
func TestOneStackOfAGroup(t *testing.T) {
	h := &fakeHost{t: t, dir: t.TempDir()}
	m := h.manager()
	of := func(id string) *start {
		tk, err := m.newTask(client.TaskSpec{ID: id, Image: "prog", Owner: "nomad", Network: "lan", Share: "group",
			Labels: map[string]string{"alloc_id": "a1"}}, false, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		p, err := m.makePlan(tk.info.Spec, fakeImage)
		if err != nil {
			t.Fatal(err)
		}
		return &start{m: m, t: tk, plan: p}
	}
	one, two := of("one"), of("two")
	ctx := context.WithoutCancel(t.Context())
	take := func(s *start, names ...string) {
		t.Helper()
		for _, name := range names {
			i := slices.IndexFunc(steps, func(st step) bool { return st.name == name })
			if err := s.take(ctx, steps[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	back := func(s *start) {
		t.Helper()
		for n := len(s.t.undos); n > 0; n-- {
			if err := m.takeBack(s.t, s.t.undos[n-1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	take(one, "address")
	take(two, "address", "network")
	take(one, "network")
	if one.t.endpoint.Stack != "fjnet-alloc++a1" || two.t.endpoint.Stack != one.t.endpoint.Stack {
		t.Errorf("%+v and %+v", one.t.endpoint, two.t.endpoint)
	}
	back(two)
	take(two, "address", "network") // again, while the stack is there
	back(two)
	if got := h.asked(); strings.Contains(got, "-") {
		t.Errorf("the stack went with the first: %s", got)
	}
	back(one)
	if got := h.asked(); !strings.HasSuffix(got, "-network -address") || strings.Count(got, "-network") != 1 {
		t.Errorf("asked %s", got)
	}
}

// What a daemon finds in the records is adopted before anything ends, and only what runs is published.
func TestNetworksAreAdopted(t *testing.T) {
	h := &fakeHost{t: t, dir: t.TempDir()}
	m := h.manager()
	dir := filepath.Join(h.dir, "tasks", "one")
	e, err := json.Marshal(fakeEndpoint)
	if err != nil {
		t.Fatal(err)
	}
	lines := `{"task":{"spec":{"id":"one","image":"prog","network":"lan"},"state":"running","jail":"fj-one","ports":` +
		`[{"name":"web","protocol":"tcp","port":9,"to":80}]},"boot":"this","endpoint":` + string(e) + "}\n"
	for _, op := range []string{"address", "ruleset", "network", "publish", "jail"} {
		lines += `{"undo":{"op":"` + op + `"}}` + "\n"
	}
	err = errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, journalName), []byte(lines), 0o600))
	if err = errors.Join(err, m.Read(t.Context())); err != nil {
		t.Fatal(err)
	}
	m.adoptNetworks()
	if err := m.sweepNetworks(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := h.published; len(p) != 1 || p[0].Addr4 != fakeEndpoint.Addr4 || len(p[0].Published) != 1 {
		t.Errorf("published: %+v", p)
	}
	if len(m.ports) != 1 || m.ports[0].port != 9 {
		t.Errorf("claims: %+v", m.ports)
	}
	if err := m.Recover(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	<-m.all()[0].done
	for m.all()[0].remains() != "" {
		time.Sleep(time.Millisecond)
	}
	if got := h.asked(); !strings.HasSuffix(got, "-jail -publish -network -ruleset -address") || !strings.HasPrefix(got, "=one ") {
		t.Errorf("asked %s", got)
	}
	if len(m.ports) > 0 || len(h.endpoints) > 0 {
		t.Errorf("left: %v %v", m.ports, h.endpoints)
	}
}

// A journal of a version without networks is one of the host's.
func TestEndpointInTheJournal(t *testing.T) {
	b, err := json.Marshal(record{Endpoint: &fakeEndpoint})
	var r record
	if err = errors.Join(err, json.Unmarshal(b, &r)); err != nil || r.Endpoint == nil || r.Endpoint.Addr4 != fakeEndpoint.Addr4 ||
		r.Endpoint.Addr6.IsValid() || r.Endpoint.Mode != network.NAT {
		t.Errorf("%s: %+v %v", b, r.Endpoint, err)
	}
}

// No id of a task is the holder, or makes the stack, of an allocation.
func TestNoTaskIsNamedLikeAnAllocation(t *testing.T) {
	const alloc = "1"
	group := client.Task{Spec: client.TaskSpec{Owner: "nomad", Share: "group",
		Labels: map[string]string{"alloc_id": alloc}}}
	holder := holderOf(group, "one")
	for _, key := range []string{"alloc-" + alloc, "alloc." + alloc, "alloc" + alloc} {
		if !validKey.MatchString(key) {
			t.Fatalf("%q is not a key", key)
		}
		if other := holderOf(client.Task{}, key); other == holder || jailOf(other) == jailOf(holder) {
			t.Errorf("a task with the key %s has the stack of the allocation %s", key, alloc)
		}
	}
	if validKey.MatchString(holder) {
		t.Errorf("%s is the key of a task", holder)
	}
	for _, id := range []string{"", "a.b", "a/b", "a+b", strings.Repeat("a", 65)} {
		if validAlloc.MatchString(id) {
			t.Errorf("%q is taken for an allocation", id)
		}
	}
}
