// Package catalog registers the ports that images provide as services in
// Consul, and keeps them true there.
package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
)

// Service is what should be in Consul for one port of a task.
type Service struct {
	PortName string
	Name     string
	Tags     []string
	Address  string // empty: Consul's own for the node
	Port     int
	Protocol string // tcp or udp
	Meta     map[string]string
	Check    *Check

	// Alloc is the allocation of Nomad's that the task is of, if it is of one. Bound is the
	// address that has the port; empty is all of the host. Since is when the task was made.
	Alloc, Bound string
	Since        time.Time
	// Also is another place where the port is reached, if there is one.
	Also Place

	from time.Time // when it should be in Consul
}

// Place is a port at an address.
type Place struct {
	Address string
	Port    int
}

// Check is how Consul looks after a service: at the task's own address and port, and nowhere else.
type Check struct {
	Type, Path        string // http or tcp
	Address           string // empty: of the agent's own host
	Port              int    // 0 is the service's
	Interval, Timeout time.Duration
}

// Config of a Catalog. Node marks the entries that are ours among all that an
// agent has.
type Config struct {
	Address, Token, Node string
}

// Entry is a service with its state in Consul.
type Entry struct {
	Task, ID, Name string
	Registered     bool
	Error          string
	By             string // whose entry stands for it, in words; empty is our own
	Health, Output string // of its checks; without any both are empty
}

// Meta keys of our entries.
const (
	metaNode = "freejail-host"
	metaTask = "freejail-task"
)

// callTime bounds one call to the Consul agent, which is near.
const callTime = 5 * time.Second

// removeTime is how long the end of a task waits for its removal.
const removeTime = 2 * time.Second

// Catalog holds what should be in Consul and makes it so, again and again: an
// agent that was down, restarted or emptied gets everything back.
type Catalog struct {
	client *api.Client
	node   string
	log    hclog.Logger
	event  func(task, message string)
	wake   chan struct{}

	back time.Duration // backTime

	converging chan struct{} // has room for the one who changes what Consul has
	mu         sync.Mutex
	wanted     map[string]map[string]Service // task -> id
	state      map[string]*condition         // by id, once it was tried
	failing    bool
	told       map[string]bool // tasks whose owners know that Consul is away
}

// New returns a catalog; Run makes it work.
func New(cfg Config, log hclog.Logger, event func(task, message string)) (*Catalog, error) {
	c := api.DefaultConfig()
	c.Address, c.Token = cfg.Address, strings.TrimSpace(cfg.Token)
	client, err := api.NewClient(c)
	if err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	return &Catalog{client: client, node: cfg.Node, log: log, event: event, wake: make(chan struct{}, 1),
		converging: make(chan struct{}, 1), back: backTime,
		wanted: map[string]map[string]Service{}, state: map[string]*condition{}, told: map[string]bool{}}, nil
}

// serviceID is another one for every port of every task: neither has a dot in its
// name, and a port's name with a dash is not set off by one.
func serviceID(task, port string) string {
	if strings.Contains(port, "-") {
		return "freejail-" + task + "." + port
	}
	return "freejail-" + task + "-" + port
}

// ours tells that an entry is this daemon's, not somebody else's of the same id.
func (c *Catalog) ours(s *api.AgentService) bool { return s.Meta[metaNode] == c.node }

// Set says which services a task has. It returns at once.
func (c *Catalog) Set(task string, services []Service) {
	ids := map[string]Service{}
	for _, s := range services {
		s.Meta = acceptable(s.Meta)
		s.Meta[metaNode], s.Meta[metaTask] = c.node, task
		s.from = time.Now().Add(nomadTime)
		ids[serviceID(task, s.PortName)] = s
	}
	c.mu.Lock()
	c.wanted[task] = ids
	c.mu.Unlock()
	c.poke()
}

// Consul's limits of metadata, see its documentation of services.
const (
	maxMetaKey   = 128
	maxMetaValue = 512
)

var metaKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// acceptable leaves out and cuts short what Consul would refuse the service for.
func acceptable(meta map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range meta {
		if len(k) <= maxMetaKey && metaKey.MatchString(k) {
			out[k] = strings.ToValidUTF8(v[:min(len(v), maxMetaValue)], "")
		}
	}
	return out
}

func (c *Catalog) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Remove takes a task's services out of Consul now. When Consul does not
// answer soon, or ctx ends, they are removed as soon as it does, which is told as
// an event.
func (c *Catalog) Remove(ctx context.Context, task string) {
	c.mu.Lock()
	ids := slices.Collect(maps.Keys(c.wanted[task]))
	delete(c.wanted, task)
	for _, id := range ids {
		delete(c.state, id)
	}
	delete(c.told, task)
	c.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	if err := c.removeAll(ctx, ids); err != nil {
		c.poke()
		c.event(task, fmt.Sprintf("Consul does not answer; its services are removed as soon as it does: %v", err))
	}
}

// removeAll ends at the first entry that is not removed: the others would wait as long.
func (c *Catalog) removeAll(ctx context.Context, ids []string) error {
	if err := c.lock(ctx); err != nil { // else a registration under way could come after
		return err
	}
	defer c.unlock()
	for _, id := range ids {
		if err := c.deregisterOurs(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func (c *Catalog) lock(ctx context.Context) error {
	select {
	case c.converging <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("another call waits for it: %w", ctx.Err())
	}
}

func (c *Catalog) unlock() { <-c.converging }

// deregisterOurs removes an entry unless it is somebody else's.
func (c *Catalog) deregisterOurs(ctx context.Context, id string) error {
	cctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	have, _, err := c.client.Agent().Service(id, (&api.QueryOptions{}).WithContext(cctx))
	if notThere(err) || err == nil && !c.ours(have) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.deregister(ctx, id)
}

// deregister removes one entry; none is no error.
func (c *Catalog) deregister(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	err := c.client.Agent().ServiceDeregisterOpts(id, (&api.QueryOptions{}).WithContext(ctx))
	if notThere(err) {
		return nil
	}
	return err
}

// Ping asks the Consul agent whether it is there and takes the token.
func (c *Catalog) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	_, err := c.client.Agent().ServicesWithFilterOpts("", (&api.QueryOptions{}).WithContext(ctx))
	return err
}

func notThere(err error) bool {
	var se api.StatusError
	return errors.As(err, &se) && se.Code == 404
}

// Status returns the wanted services of a task with their state.
func (c *Catalog) Status(task string) []Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Entry
	for id, s := range c.wanted[task] {
		e := Entry{Task: task, ID: id, Name: s.Name}
		if is := c.state[id]; is != nil {
			e.Registered, e.Error, e.By = is.err == "" && is.by == "", is.err, is.by
			e.Health, e.Output = is.health, is.output
		}
		out = append(out, e)
	}
	return out
}

// Times between two looks at Consul: while all is well, and after a failure, doubling up to the
// longest. After a start they are short at first: Nomad registers a task's own services then.
const (
	lookFirst    = 250 * time.Millisecond
	lookEvery    = 5 * time.Second
	retryFirst   = 250 * time.Millisecond
	retryLongest = 15 * time.Second
)

// Run keeps Consul true until ctx ends.
func (c *Catalog) Run(ctx context.Context) {
	look, retry := lookFirst, retryFirst
	for {
		wait := look
		look = min(2*look, lookEvery)
		if err := c.converge(ctx); err != nil {
			c.tellFailure(err)
			wait = retry
			retry = min(2*retry, retryLongest)
		} else {
			retry = retryFirst
			c.tellRecovery()
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			look = lookFirst
		case <-time.After(wait):
		}
	}
}

// tellFailure tells each task's owner once, and the log once.
func (c *Catalog) tellFailure(err error) {
	c.mu.Lock()
	first := !c.failing
	c.failing = true
	var tasks []string
	for task, ids := range c.wanted {
		for id := range ids {
			is := c.condition(id)
			if is.err != "" || !is.tried {
				is.err = err.Error()
			}
			if is.health != "" {
				is.health, is.output = Unknown, ""
			}
		}
		if !c.told[task] {
			c.told[task] = true
			tasks = append(tasks, task)
		}
	}
	c.mu.Unlock()
	if first {
		c.log.Warn("services cannot be registered in Consul; trying again", "error", err)
	}
	for _, t := range tasks {
		c.event(t, "Consul does not answer, registration is tried again: "+err.Error())
	}
}

func (c *Catalog) tellRecovery() {
	c.mu.Lock()
	tasks := slices.Sorted(maps.Keys(c.told))
	c.failing, c.told = false, map[string]bool{}
	c.mu.Unlock()
	for _, t := range tasks {
		c.event(t, "Consul answers again, the services are registered")
	}
}

// registerAll registers what Consul does not have as it should be.
func (c *Catalog) registerAll(ctx context.Context, want map[string]Service, have map[string]*api.AgentService) error {
	for id, s := range want {
		var err error
		switch other := have[id]; {
		case other != nil && !c.ours(other):
			err = fmt.Errorf("service %s: there is one of this id in Consul that is not this host's: %w", id,
				errRefused)
		case !same(other, s):
			err = c.register(ctx, id, s)
		}
		c.note(id, s, err)
		if err != nil && !refused(err) { // the agent's fault, not the service's
			return err
		}
	}
	return nil
}

// errRefused means that the agent answers, but an entry cannot be there.
var errRefused = errors.New("nothing is registered")

func refused(err error) bool {
	var status api.StatusError
	return errors.Is(err, errRefused) || errors.As(err, &status)
}

// note keeps how a registration went. Its task's owner is told once where the
// service itself is refused.
func (c *Catalog) note(id string, s Service, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	c.mu.Lock()
	is := c.condition(id)
	changed := is.err != text
	is.err, is.tried = text, true
	c.mu.Unlock()
	if changed && refused(err) {
		c.event(s.Meta[metaTask], "Consul does not take it: "+text)
	}
}

func same(have *api.AgentService, s Service) bool {
	return have != nil && have.Service == s.Name && have.Port == s.Port && have.Address == s.Address &&
		maps.Equal(have.Meta, s.Meta) && slices.Equal(have.Tags, s.Tags)
}

func (c *Catalog) register(ctx context.Context, id string, s Service) error {
	reg := registration{AgentServiceRegistration: &api.AgentServiceRegistration{ID: id, Name: s.Name, Tags: s.Tags,
		Address: s.Address, Port: s.Port, Meta: s.Meta}}
	if s.Check != nil {
		reg.Check = check(s)
	}
	cctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if _, err := c.client.Raw().Write("/v1/agent/service/register", reg, nil,
		(&api.WriteOptions{}).WithContext(cctx)); err != nil {
		return fmt.Errorf("service %s: %w", id, err)
	}
	return nil
}

// registration has what the client's type lacks.
type registration struct {
	*api.AgentServiceRegistration
	Check *checkOnce `json:",omitempty"`
}

// checkOnce asks its own address alone: the program that answers must not send
// Consul elsewhere.
type checkOnce struct {
	*api.AgentServiceCheck
	DisableRedirects bool
}

// Times of a check that gives none.
const (
	defaultInterval = 10 * time.Second
	defaultTimeout  = 2 * time.Second
)

func check(s Service) *checkOnce {
	out := &checkOnce{AgentServiceCheck: &api.AgentServiceCheck{
		Interval: timeOr(s.Check.Interval, defaultInterval).String(),
		Timeout:  timeOr(s.Check.Timeout, defaultTimeout).String()}, DisableRedirects: true}
	if s.Check.Type == "http" {
		out.HTTP = checkURL(s)
	} else {
		out.TCP = checkAddress(s)
	}
	return out
}

func checkAddress(s Service) string {
	return net.JoinHostPort(cmp.Or(s.Check.Address, "127.0.0.1"), strconv.Itoa(cmp.Or(s.Check.Port, s.Port)))
}

func checkURL(s Service) string {
	return "http://" + checkAddress(s) + "/" + strings.TrimPrefix(s.Check.Path, "/")
}

func timeOr(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}
