package catalog

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/freejail/freejail/internal/printable"
)

// What the checks of a service say, by the worst of them.
const (
	Healthy   = "healthy"
	Warning   = "warning"
	Unhealthy = "unhealthy"
	Starting  = "starting" // no check has been made yet
	Unknown   = "unknown"  // Consul does not answer
)

var severity = map[string]int{Healthy: 1, Starting: 2, Warning: 3, Unhealthy: 4}

// maxOutput is how much of a check's output is kept, in bytes.
const maxOutput = 200

// The owner of a task is told of a check that has failed for some time, as it may while a program
// starts, and not often: of a task Nomad keeps ten events.
const (
	tellAfter = 5 * time.Second
	tellEvery = 30 * time.Second
)

// lookAtChecks keeps what the checks of services say, and tells their owners.
func (c *Catalog) lookAtChecks(ctx context.Context, want map[string]Service, instead map[string]standIn) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	all, err := c.client.Agent().ChecksWithFilterOpts("", (&api.QueryOptions{}).WithContext(ctx))
	if refused(err) { // by a token that may register, but not read them
		c.log.Debug("checks cannot be read", "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("checks: %w", err)
	}
	byService := map[string][]*api.AgentCheck{}
	for _, check := range all {
		byService[check.ServiceID] = append(byService[check.ServiceID], check)
	}
	for id, s := range want {
		where := id
		if other := instead[id].id; other != "" {
			where = other
		}
		health, output := worst(byService[where])
		c.noteHealth(id, s, health, output)
	}
	return nil
}

// worst is what the checks of one service say together; empty where there are none.
func worst(checks []*api.AgentCheck) (health, output string) {
	for _, check := range checks {
		is := healthOf(check)
		if severity[is] > severity[health] {
			health, output = is, check.Output
		}
	}
	return health, short(output)
}

// short is an output as it is kept: it has what a program of an image says.
func short(output string) string {
	output = output[:min(len(output), maxOutput)]
	return printable.Line(strings.TrimSpace(strings.ToValidUTF8(output, "")))
}

func healthOf(check *api.AgentCheck) string {
	switch {
	case check.Status == api.HealthPassing:
		return Healthy
	case check.Status == api.HealthWarning:
		return Warning
	case check.Output == "":
		return Starting
	}
	return Unhealthy
}

func (c *Catalog) noteHealth(id string, s Service, health, output string) {
	c.mu.Lock()
	is := c.condition(id)
	is.health, is.output = health, output
	news := is.news(time.Now())
	c.mu.Unlock()
	if text := news.of(s, output); text != "" {
		c.event(s.Meta[metaTask], text)
	}
}

// news of a check, for a task's owner.
type news string

const (
	nothing news = ""
	failing news = "failing"
	passing news = "passing"
)

// of is the news of a service, in words.
func (n news) of(s Service, output string) string {
	switch n {
	case failing:
		return fmt.Sprintf("the check of port %s fails: %s", s.PortName, output)
	case passing:
		return fmt.Sprintf("the check of port %s passes again", s.PortName)
	}
	return ""
}

// news is what its owner is to be told now, if anything.
func (is *condition) news(now time.Time) news {
	switch is.health {
	case Starting, Unknown:
		return nothing
	case Unhealthy, Warning:
		if is.failing.IsZero() {
			is.failing = now
		}
		if is.toldFailing || now.Sub(is.failing) < tellAfter || now.Sub(is.toldAt) < tellEvery {
			return nothing
		}
		is.toldFailing, is.toldAt = true, now
		return failing
	}
	is.failing = time.Time{}
	if !is.toldFailing {
		return nothing
	}
	is.toldFailing, is.toldAt = false, now
	return passing
}
