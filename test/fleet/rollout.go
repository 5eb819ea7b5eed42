package fleet

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Rates in bytes a second.
const (
	gigabit = 125e6
	hostNet = gigabit
)

// rollout is a new image for all hosts, and what happens meanwhile.
type rollout struct {
	name    string
	hosts   int
	rate    float64       // of the registry
	bytes   int64         // of the image's layers that hosts do not have; 0 is all
	timeout time.Duration // image_pull_timeout; 0 is the default
	// How tasks begin: so many at once, the next when one has been healthy for ten seconds; or each at a time of its
	// own within a while; or all at once.
	waves  int
	spread time.Duration
	// Limits of the registry.
	most       int
	retryAfter time.Duration
	// Mirrors that first get the image themselves, of which a host asks one.
	mirrors   int
	peers     bool // hosts are the mirrors (`freejail serve --mirror`)
	late      bool // they get the image while the others do
	transfers int  // of each; 0 is the default
	// From one time to another the registry, or the mirrors, are something else.
	trouble    state
	slow       float64 // rate instead
	from, to   time.Duration
	ofMirrors  bool
	turn       time.Duration // of a server's transfers
	afterwards bool          // the roll-out begins when the trouble does
}

const healthyTime = 10 * time.Second // min_healthy_time of Nomad's update block

// outcome is what came of it.
type outcome struct {
	rollout
	took      []time.Duration // until each host's task had its image, sorted
	tries     int
	gaveUp    int // hosts whose first three tries failed
	registry  stats
	mirror    stats // of the first
	back      int   // most requests in a second in the minute after the trouble
	during    int   // and while there is some
	exhausted bool  // some have no image after a day
}

// at is when a share of the hosts was there; negative is never.
func (o *outcome) at(share float64) time.Duration {
	i := int(share*float64(o.hosts)+0.999) - 1
	if i >= len(o.took) {
		return -1
	}
	return o.took[max(i, 0)]
}

// run is in a bubble of synctest, whose clock goes on when all wait.
func (r rollout) run(m measured) (*outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 24*time.Hour)
	defer cancel()
	if r.bytes == 0 {
		r.bytes = imageBytes
	}
	p, err := newPicture(r.name, r.bytes)
	if err != nil {
		return nil, err
	}
	if r.timeout == 0 {
		r.timeout = pullTimeout
	}
	began := time.Now()
	servers := map[string]*server{origin: newServer(origin, r.rate, p, m)}
	main := servers[origin]
	main.most, main.retryAfter = r.most, r.retryAfter
	var names []string
	for i := range r.mirrors {
		names = append(names, fmt.Sprintf("mirror%d.example", i))
		servers[names[i]] = newServer(names[i], hostNet, p, m)
		if r.peers {
			servers[names[i]].asPeer(r.late)
			if r.transfers != 0 {
				servers[names[i]].most = r.transfers
			}
		}
	}
	for _, s := range servers {
		s.turn = max(s.turn, r.turn)
	}
	out := &outcome{rollout: r}
	filled := make(chan error, 1)
	fill := func() { filled <- out.fillMirrors(ctx, servers, names) }
	if !r.late {
		fill()
	} else {
		go fill()
	}
	ended := make(chan struct{})
	if r.to != 0 {
		go r.happen(ctx, servers, ended)
	}
	tasks := make([]*task, r.hosts)
	for i := range tasks {
		var mirrors []string
		if len(names) > 0 {
			mirrors = []string{names[i%len(names)]}
		}
		h, err := newNode(hostNet, servers, mirrors...)
		if err != nil {
			return nil, err
		}
		tasks[i] = &task{host: h, timeout: r.timeout}
	}
	out.start(ctx, tasks, began)
	close(ended)
	if err := <-filled; err != nil {
		return nil, err
	}
	for _, t := range tasks {
		out.tries += t.tries
		if t.first.Load() {
			out.gaveUp++
		}
	}
	out.exhausted = len(out.took) < r.hosts
	slices.Sort(out.took)
	troubled := main
	if r.ofMirrors {
		troubled = servers[names[0]]
	}
	out.during, out.back = troubled.asked(r.from, r.to), troubled.asked(r.to, r.to+time.Minute)
	out.registry = main.stats
	if len(names) > 0 {
		out.mirror = servers[names[0]].stats
	}
	return out, nil
}

// fillMirrors has each mirror get the image from the registry, all at once.
func (o *outcome) fillMirrors(ctx context.Context, servers map[string]*server, names []string) error {
	errs := make(chan error)
	for _, name := range names {
		h, err := newNode(hostNet, servers)
		if err != nil {
			return err
		}
		go func() {
			err := (&task{host: h, timeout: time.Hour}).start(ctx)
			servers[name].fill()
			errs <- err
		}()
	}
	for range names {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// start starts the tasks, and waits for them.
func (o *outcome) start(ctx context.Context, tasks []*task, began time.Time) {
	var all sync.WaitGroup
	var mu sync.Mutex
	turns := make(chan struct{}, max(o.waves, 1))
	if o.afterwards {
		time.Sleep(time.Until(began.Add(o.from)))
	}
	for i, t := range tasks {
		all.Go(func() {
			if o.waves > 0 {
				turns <- struct{}{}
				defer func() { <-turns }()
			}
			if o.spread > 0 {
				time.Sleep(o.spread * time.Duration(i) / time.Duration(len(tasks)))
			}
			if t.start(ctx) != nil {
				return
			}
			mu.Lock()
			o.took = append(o.took, time.Since(began))
			mu.Unlock()
			if o.waves > 0 {
				time.Sleep(healthyTime)
			}
		})
	}
	all.Wait()
}

// happen makes the trouble and ends it.
func (r rollout) happen(ctx context.Context, servers map[string]*server, ended <-chan struct{}) {
	each := func(f func(*server)) {
		for name, s := range servers {
			if (name != origin) == r.ofMirrors {
				f(s)
			}
		}
	}
	began := servers[origin].began
	change := func(at time.Duration, f func(*server)) {
		if until(ctx, began.Add(at), ended) == nil {
			each(f)
		}
	}
	before := r.rate
	if r.ofMirrors {
		before = hostNet
	}
	change(r.from, func(s *server) {
		if r.slow != 0 {
			s.link.set(r.slow)
			return
		}
		s.set(r.trouble)
	})
	change(r.to, func(s *server) {
		s.link.set(before)
		if r.slow == 0 {
			s.set(up)
		}
	})
}
