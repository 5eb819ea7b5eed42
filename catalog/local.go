package catalog

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Local makes the checks of services itself, for a host without Consul. Nothing is registered.
type Local struct {
	event func(task, message string)

	mu    sync.Mutex
	tasks map[string]*watched
}

// watched are the checks of a task, until stop.
type watched struct {
	stop   context.CancelFunc
	checks []*watch
}

// watch is one of them; its catalog's lock guards its condition.
type watch struct {
	service Service
	condition
}

// NewLocal returns one that watches nothing. event tells a task's owner of its checks.
func NewLocal(event func(task, message string)) *Local {
	return &Local{event: event, tasks: map[string]*watched{}}
}

// Set says which services a task has. It returns at once.
func (l *Local) Set(task string, services []Service) {
	ctx, stop := context.WithCancel(context.Background())
	w := &watched{stop: stop}
	for _, s := range services {
		if s.Check != nil {
			w.checks = append(w.checks, &watch{service: s, condition: condition{health: Starting}})
		}
	}
	l.mu.Lock()
	before := l.tasks[task]
	l.tasks[task] = w
	l.mu.Unlock()
	if before != nil {
		before.stop()
	}
	for _, one := range w.checks {
		go l.follow(ctx, task, one)
	}
}

// Remove ends the checks of a task.
func (l *Local) Remove(_ context.Context, task string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.tasks[task]; w != nil {
		w.stop()
		delete(l.tasks, task)
	}
}

// Status returns the services of a task that have checks.
func (l *Local) Status(task string) (out []Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.tasks[task]; w != nil {
		for _, one := range w.checks {
			out = append(out, Entry{Task: task, Name: one.service.Name, ID: serviceID(task, one.service.PortName),
				Health: one.health, Output: one.output})
		}
	}
	return out
}

// shortest is the least time between two checks, as it is Consul's.
const shortest = time.Second

func (l *Local) follow(ctx context.Context, task string, w *watch) {
	every := max(timeOr(w.service.Check.Interval, defaultInterval), shortest)
	wait := time.NewTimer(shortest) // a program starts
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		health, output := probe(ctx, w.service)
		l.mu.Lock()
		w.health, w.output = health, output
		news := w.news(time.Now())
		l.mu.Unlock()
		if text := news.of(w.service, output); text != "" && ctx.Err() == nil {
			l.event(task, text)
		}
		wait.Reset(every)
	}
}

// asker asks the address that it is given alone: no proxy, and not where a program sends it.
var asker = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// probe makes a check as Consul would.
func probe(ctx context.Context, s Service) (health, output string) {
	ctx, cancel := context.WithTimeout(ctx, timeOr(s.Check.Timeout, defaultTimeout))
	defer cancel()
	try := connect
	if s.Check.Type == "http" {
		try = get
	}
	health, output, err := try(ctx, s)
	if err != nil {
		return Unhealthy, short(err.Error())
	}
	return health, short(output)
}

func connect(ctx context.Context, s Service) (health, output string, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", checkAddress(s))
	if err == nil {
		err = conn.Close()
	}
	return Healthy, "TCP connect " + checkAddress(s) + ": Success", err
}

func get(ctx context.Context, s Service) (health, output string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, checkURL(s), nil)
	if err != nil {
		return "", "", err
	}
	resp, err := asker.Do(req)
	if err != nil {
		return "", "", err
	}
	return healthOfStatus(resp.StatusCode), fmt.Sprintf("HTTP GET %s: %s", req.URL, resp.Status), resp.Body.Close()
}

func healthOfStatus(code int) string {
	switch {
	case code >= 200 && code <= 299:
		return Healthy
	case code == http.StatusTooManyRequests:
		return Warning
	}
	return Unhealthy
}
