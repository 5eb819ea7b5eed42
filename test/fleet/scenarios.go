package fleet

import "time"

const (
	aMB     = 1_000_000
	minutes = time.Minute
)

// share is the registry's rate for each host: 10 Gbit/s for 10,000. Times are the same for each number of hosts, as
// long as what they share grows with it.
const share = gigabit / 1000

// longTurn is of many transfers at once: half a minute would already be taken for a pause.
const longTurn = 10 * time.Second

// rollouts are of a new image for hosts that run another.
func rollouts(hosts int) []rollout {
	r := rollout{hosts: hosts, rate: share * float64(hosts), turn: longTurn}
	with := func(name string, change func(*rollout)) rollout {
		r := r
		r.name = name
		change(&r)
		return r
	}
	return []rollout{
		with("all at once", func(*rollout) {}),
		with("all at once, `image_pull_timeout` 2h", func(r *rollout) { r.timeout = 2 * time.Hour }),
		with("the same, and the registry limits transfers to a 25th of the hosts", func(r *rollout) {
			r.timeout, r.most, r.retryAfter = 2*time.Hour, max(1, hosts/25), 30*time.Second
		}),
		with("each at a time of its own within an hour", func(r *rollout) { r.spread = time.Hour }),
		with("a 100th of the hosts at once (`max_parallel`)", func(r *rollout) { r.waves = max(1, hosts/100) }),
		with("a 20th at once", func(r *rollout) { r.waves = max(1, hosts/20) }),
		with("a mirror of 1 Gbit/s for 100 hosts", func(r *rollout) { r.mirrors = max(1, hosts/100) }),
		with("a mirror for 40 hosts (a rack)", func(r *rollout) { r.mirrors = max(1, hosts/40) }),
		with("a host as the mirror of 40, which pulled before", func(r *rollout) {
			r.mirrors, r.peers = max(1, hosts/40), true
		}),
		with("a host as the mirror of 100, with `transfers = 256`", func(r *rollout) {
			r.mirrors, r.peers, r.transfers = max(1, hosts/100), true, 256
		}),
		with("a host as the mirror of 40, which pulls with them", func(r *rollout) {
			r.mirrors, r.peers, r.late = max(1, hosts/40), true, true
		}),
		with("the same, a 20th of the hosts at once", func(r *rollout) {
			r.mirrors, r.peers, r.late, r.waves = max(1, hosts/40), true, true, max(1, hosts/20)
		}),
	}
}

// troubles are a registry, or mirrors, that fail for ten minutes.
func troubles(hosts int) []rollout {
	fast := share * float64(hosts)
	waves := rollout{hosts: hosts, rate: fast, waves: max(1, hosts/20), turn: longTurn,
		from: 5 * minutes, to: 15 * minutes}
	with := func(name string, r rollout, change func(*rollout)) rollout {
		r.name = name
		change(&r)
		return r
	}
	all := rollout{hosts: hosts, rate: fast, bytes: aMB, from: 1 * minutes, to: 11 * minutes, afterwards: true}
	racks := rollout{hosts: hosts, rate: fast, mirrors: max(hosts/40, 1), from: 40 * time.Second, to: 24 * time.Hour,
		ofMirrors: true}
	return []rollout{
		with("a 20th at once: refuses", waves, func(r *rollout) { r.trouble = refusing }),
		with("a 20th at once: does not answer", waves, func(r *rollout) { r.trouble = hanging }),
		with("a 20th at once: says 503", waves, func(r *rollout) { r.trouble = busy }),
		with("a 20th at once: 100 times slower", waves, func(r *rollout) { r.slow = fast / 100 }),
		with("all start 1 MB: refuses", all, func(r *rollout) { r.trouble = refusing }),
		with("all start 1 MB: does not answer", all, func(r *rollout) { r.trouble = hanging }),
		with("all start 1 MB: says 503", all, func(r *rollout) { r.trouble = busy }),
		with("all start 1 MB: says 503, `Retry-After` 30", all, func(r *rollout) {
			r.trouble, r.retryAfter = busy, 30*time.Second
		}),
		with("the mirrors of racks refuse, the registry is there", racks, func(r *rollout) { r.trouble = refusing }),
		with("the mirrors of racks do not answer", racks, func(r *rollout) { r.trouble = hanging }),
	}
}

// revocations are of what a key has approved.
func revocations(hosts int) []revocation {
	const day = 24 * time.Hour
	few := min(hosts, 20)
	return []revocation{
		{name: "hosts began at times of their own", hosts: hosts, reissued: day, look: 5 * time.Second,
			give: time.Hour},
		{name: "all began at once", hosts: hosts, together: true, reissued: day, look: 5 * time.Second,
			give: time.Hour},
		{name: "cut off from the list, `max_age` 168h (default)", hosts: few, cut: true, reissued: day,
			look: 10 * time.Minute, give: 8 * day},
		{name: "cut off, `max_age` 1h, dated anew every 15 min", hosts: few, cut: true, more: "  max_age = \"1h\"\n",
			reissued: 15 * time.Minute, look: time.Minute, give: 8 * day},
		{name: "cut off, `when_unreachable = \"keep\"`", hosts: few, cut: true,
			more: "  when_unreachable = \"keep\"\n", reissued: day, look: time.Hour, give: 8 * day},
	}
}

// pushes are faulty files for half an hour.
func pushes(hosts int) []push {
	p := push{hosts: hosts, within: 10 * time.Minute, fixed: 30 * time.Minute, every: 20 * time.Minute}
	with := func(name, text string, anew time.Duration) push {
		p := p
		p.name, p.text, p.anew = name, text, anew
		return p
	}
	return []push{
		with("cannot be read", broken, 0),
		with("denies what all tasks need", denying, 0),
		with("the same; what was refused is tried anew when all hosts have the fix", denying, 40*time.Minute),
	}
}
