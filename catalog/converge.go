package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// condition is how a service is in Consul.
type condition struct {
	tried          bool
	err            string // why it is not registered
	by             string // whose entry stands for it, in words
	health, output string

	failing     time.Time // since then; zero while it is well
	toldFailing bool      // the owner was told, then
	toldAt      time.Time

	nomads standIn   // the entry of Nomad's that stood for it last
	gone   time.Time // since when it is not there
}

// condition is for its service alone while that is wanted. The caller holds the lock.
func (c *Catalog) condition(id string) *condition {
	if c.state[id] == nil {
		c.state[id] = &condition{}
	}
	return c.state[id]
}

// converge compares what Consul has of ours with what it should have, and ends
// at the first call that the agent does not answer.
func (c *Catalog) converge(ctx context.Context) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	have, err := c.services(ctx)
	if err != nil {
		return err
	}
	all := c.due(time.Now())
	instead := standIns(all, have)
	c.holdBack(all, instead, time.Now())
	c.noteStandIns(all, instead)
	want := maps.Clone(all)
	maps.DeleteFunc(want, func(id string, _ Service) bool { return instead[id].id != "" })
	if err := c.registerAll(ctx, want, have); err != nil {
		return err
	}
	if err := c.deregisterRest(ctx, want, have); err != nil || len(all) == 0 {
		return err
	}
	return c.lookAtChecks(ctx, all, instead)
}

func (c *Catalog) services(ctx context.Context) (map[string]*api.AgentService, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	return c.client.Agent().ServicesWithFilterOpts("", (&api.QueryOptions{}).WithContext(ctx))
}

// nomadTime is how long a new task of Nomad's is waited for: when it has started, Nomad registers
// the services of its job.
const nomadTime = 200 * time.Millisecond

// due are the services that should be in Consul by now, by their ids. It forgets the others.
func (c *Catalog) due(now time.Time) map[string]Service {
	c.mu.Lock()
	defer c.mu.Unlock()
	out, known := map[string]Service{}, map[string]*condition{}
	for _, ids := range c.wanted {
		for id, s := range ids {
			if c.state[id] != nil {
				known[id] = c.state[id]
			}
			if s.Alloc == "" || now.After(s.from) {
				out[id] = s
			}
		}
	}
	c.state = known
	return out
}

// deregisterRest removes what is ours and not wanted.
func (c *Catalog) deregisterRest(ctx context.Context, want map[string]Service,
	have map[string]*api.AgentService) error {
	var errs []error
	for id, s := range have {
		if _, ok := want[id]; ok || !c.ours(s) {
			continue
		}
		err := c.deregister(ctx, id)
		if errs = append(errs, err); err != nil && !refused(err) {
			break
		}
	}
	return errors.Join(errs...)
}

// standIn is an entry of Consul that has the port of a service of ours.
type standIn struct {
	id, by string
	nomads bool
}

// backTime is how long after Nomad's entry for it a service of ours is registered again. Nomad takes a task's
// services out of Consul some time before it has the task told to end (shutdown_delay), and does not say so:
// an entry that came back then would be found by those who are to go elsewhere.
const backTime = 30 * time.Second

// holdBack keeps services out of Consul for which an entry of Nomad's stood until lately.
func (c *Catalog) holdBack(want map[string]Service, instead map[string]standIn, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range want {
		is := c.condition(id)
		switch {
		case instead[id].nomads:
			is.nomads, is.gone = instead[id], time.Time{}
			continue
		case is.nomads.id == "":
			continue
		case is.gone.IsZero():
			is.gone = now
		}
		if now.Sub(is.gone) < c.back {
			instead[id] = is.nomads
		} else {
			is.nomads, is.gone = standIn{}, time.Time{}
		}
	}
}

// standIns are those for services of Nomad's tasks, by the ids of ours. A service block of the
// job comes first, as Nomad judges a deployment by its checks; then the oldest task of the
// allocation.
func standIns(want map[string]Service, have map[string]*api.AgentService) map[string]standIn {
	out, first := map[string]standIn{}, map[place]string{}
	ids := slices.SortedFunc(maps.Keys(want), func(a, b string) int {
		if n := want[a].Since.Compare(want[b].Since); n != 0 {
			return n
		}
		return strings.Compare(a, b)
	})
	for _, id := range ids {
		s := want[id]
		if s.Alloc == "" {
			continue
		}
		if other := nomads(have, s); other != nil {
			out[id] = standIn{other.ID, fmt.Sprintf("the job's service %s", other.Service), true}
			continue
		}
		at := place{s.Alloc, s.Bound, s.Protocol, s.Port}
		if other, taken := first[at]; taken && want[other].Meta[metaTask] != s.Meta[metaTask] {
			o := want[other]
			out[id] = standIn{id: other, by: fmt.Sprintf("the service %s of task %s", o.Name, o.Meta[metaTask])}
		} else if !taken {
			first[at] = id
		}
	}
	return out
}

// place is where tasks of one allocation serve.
type place struct {
	alloc, address, protocol string
	port                     int
}

// nomads is the entry that Nomad has for a service block of a task's job with the port of a
// service of ours. Nomad's ids are of its own making: see MakeAllocServiceID of its
// client/serviceregistration.
func nomads(have map[string]*api.AgentService, s Service) *api.AgentService {
	var found *api.AgentService
	for id, other := range have {
		if !strings.HasPrefix(id, "_nomad-task-"+s.Alloc+"-") {
			continue
		}
		here := other.Address == "" || s.Bound == "" || other.Address == s.Bound || other.Address == s.Address
		here = here && other.Port == s.Port || other.Port != 0 && Place{other.Address, other.Port} == s.Also
		if here && (found == nil || id < found.ID) {
			found = other
		}
	}
	return found
}

// noteStandIns tells owners where their services are.
func (c *Catalog) noteStandIns(want map[string]Service, instead map[string]standIn) {
	type news struct{ task, text string }
	var list []news
	c.mu.Lock()
	for id, s := range want {
		is, by := c.condition(id), instead[id].by
		switch {
		case by == is.by:
		case by != "":
			list = append(list, news{s.Meta[metaTask],
				fmt.Sprintf("port %s is registered in Consul by %s alone", s.PortName, by)})
		default:
			list = append(list, news{s.Meta[metaTask],
				fmt.Sprintf("port %s is registered in Consul as %s again", s.PortName, s.Name)})
		}
		if is.by = by; by != "" {
			is.err = ""
		}
	}
	c.mu.Unlock()
	for _, n := range list {
		c.event(n.task, n.text)
	}
}
