package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/approval"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/images"
	"github.com/freejail/freejail/daemon/judge"
	"github.com/freejail/freejail/daemon/ledger"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/testimage"
	"github.com/freejail/freejail/policy"
	"github.com/freejail/freejail/storage"
)

// fleet are hosts that decide about one image: each with its own file, ledger and lists; the image, which all have, is
// there once.
type fleet struct {
	dir    string
	key    *sign.PrivateKey
	public string // its file
	images *images.Library
	image  *image.Image
	lists  lists
}

// idle stands in for the tasks of a host, of which none runs.
type idle struct{ judge.Tasks }

func (idle) Alive() []client.Task                       { return nil }
func (idle) Event(string, string, string)               {}
func (idle) UsesChain(string) bool                      { return false }
func (idle) Sweep(context.Context, string) (int, error) { return 0, nil }

func newFleet(ctx context.Context, dir string) (f *fleet, err error) {
	f = &fleet{dir: dir, public: filepath.Join(dir, "key.pub")}
	private, public, err := sign.Generate(nil)
	if err != nil {
		return nil, err
	}
	f.key, err = sign.ReadPrivate(private, nil)
	if err = errors.Join(err, os.WriteFile(f.public, public, 0o600)); err != nil {
		return nil, err
	}
	inForce, err := host.NewFollower(host.Config{}, hclog.NewNullLogger())
	if err != nil {
		return nil, err
	}
	f.images, err = images.Open(filepath.Join(dir, "images"), images.Host{Log: hclog.NewNullLogger(),
		InForce: func() *host.InForce { now, _ := inForce.Follow(); return now },
		Stores:  func() []storage.Driver { return nil }, Tell: func(string, string, string) {}})
	if err != nil {
		return nil, err
	}
	f.images.Tasks = idle{}
	file, err := testimage.Write(ctx, dir, testimage.Spec{Name: "prog", Cmd: []string{"x"},
		Manifest: `{"schemaVersion":1,"requires":{"allow":["raw_sockets"]}}`})
	if err != nil {
		return nil, err
	}
	get, err := f.images.Importing(client.ImportRequest{Path: file, Name: "prog"})
	if err == nil {
		_, err = get(ctx, func(client.ImageProgress) {})
	}
	if err == nil {
		f.image, err = f.images.Get("prog")
	}
	return f, err
}

// approve attaches an approval to the image, and returns what revokes it.
func (f *fleet) approve(at time.Time) (approval.Revoked, error) {
	a := approval.New(f.image.Digest, "prog", requests, at, at.Add(60*24*time.Hour))
	a.By, a.Reason = "alice", "seen"
	doc, err := a.Sign(f.key)
	if err == nil {
		err = f.images.Store.AddApprovals(f.image.Digest, sign.Documents{doc})
	}
	return approval.Revoked{Approval: a.ID(), Reason: "the key is not trusted any more"}, err
}

var requests = []policy.Request{{Privilege: policy.Allow("raw_sockets")}}

// Hosts' files: by an approver, by the policy alone, one that permits nothing, and one that cannot be read.
func (f *fleet) approver(more string) string {
	return fmt.Sprintf("approver \"security\" {\n  key_file = %q\n  kinds = [\"allow\"]\n"+
		"  revocations = \"https://lists.example/security\"\n%s}\n", f.public, more)
}

const (
	permitting = "permit {\n  allow = [\"raw_sockets\"]\n}\n"
	denying    = "deny {\n  allow = [\"raw_sockets\"]\n}\n"
	broken     = "permit {\n  alow = [\"raw_sockets\"]\n}\n"
)

// lists is the server of lists.
type lists struct {
	mu        sync.Mutex
	text      []byte
	began     time.Time
	perSecond perSecond
}

// put is a list that is there from now on.
func (l *lists) put(text []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = text
}

func (l *lists) most(from, to time.Duration) (most int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.perSecond.most(from, to)
}

// without marks the context of a host that has no network until a time.
type without struct{}

func (l *lists) RoundTrip(req *http.Request) (*http.Response, error) {
	if at, ok := req.Context().Value(without{}).(time.Time); ok && time.Now().Before(at) {
		return nil, errors.New("no route to host")
	}
	if at, ok := req.Context().Value(onlyUntil{}).(time.Time); ok && !time.Now().Before(at) {
		return nil, errors.New("no route to host")
	}
	if err := until(req.Context(), time.Now().Add(roundTrip), nil); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.perSecond == nil {
		l.began, l.perSecond = time.Now(), perSecond{}
	}
	l.perSecond[int(time.Since(l.began)/time.Second)]++
	return reply(req, http.StatusOK, io.NopCloser(strings.NewReader(string(l.text))), int64(len(l.text))), nil
}

// decider is a host of the fleet.
type decider struct {
	*judge.Judge
	ctx  context.Context
	file string
	f    *fleet
}

// host makes one, whose file says something.
func (f *fleet) host(ctx context.Context, i int, text string) (d *decider, err error) {
	dir := filepath.Join(f.dir, fmt.Sprint("host", i))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d = &decider{ctx: ctx, file: filepath.Join(dir, "freejail.hcl"), f: f}
	if err := d.write(text); err != nil {
		return nil, err
	}
	follower, err := host.NewFollower(host.Config{Path: d.file}, hclog.NewNullLogger())
	if err != nil {
		return nil, err
	}
	l, _, err := ledger.Open(filepath.Join(dir, "freejail.db"))
	if err != nil {
		return nil, err
	}
	d.Judge = &judge.Judge{Ledger: l, Images: f.images, Tasks: idle{}, Log: hclog.NewNullLogger(),
		Lists:   approval.OpenLists(filepath.Join(dir, "lists")),
		InForce: func() *host.InForce { now, _ := follower.Follow(); return now }}
	return d, nil
}

// write replaces the host's file, as whatever distributes it does.
func (d *decider) write(text string) error {
	err := os.WriteFile(d.file+".new", []byte(text), 0o600)
	return errors.Join(err, os.Rename(d.file+".new", d.file))
}

// starts tells whether a task would start now.
func (d *decider) starts() bool {
	return d.Permit(d.ctx, client.TaskSpec{ID: "task", Owner: "nomad", Image: "prog"}, d.f.image, requests) == nil
}

// revocation is when hosts hear that what an approver has signed does not count any more.
type revocation struct {
	name     string
	more     string // of the approver's block
	hosts    int
	together bool          // they began in the same moment
	cut      bool          // they do not reach the server of lists any more
	reissued time.Duration // how often a list is dated anew
	look     time.Duration // how often each host tries to start a task
	give     time.Duration // up looking after
}

// told is when hosts started a task last.
type told struct {
	took  []time.Duration // after the revocation, sorted by host
	never int             // hosts that still start tasks
	most  int             // fetches in a second, of the server
	first int             // and in the first second
}

func (r revocation) run(ctx context.Context, f *fleet) (out *told, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	deciders := make([]*decider, r.hosts)
	defer func() {
		cancel()
		all.Wait()
		err = errors.Join(err, closeAll(deciders))
	}()
	revoked, err := f.approve(time.Now())
	if err != nil {
		return nil, err
	}
	list := approval.List{}
	issue := func(more ...approval.Revoked) error {
		list = list.Next(time.Now(), more...)
		text, err := list.Sign(f.key)
		f.lists.put(text)
		return err
	}
	if err := issue(); err != nil {
		return nil, err
	}
	cutAt := time.Now().Add(settled)
	for i := range deciders {
		own := ctx
		if r.cut {
			own = context.WithValue(ctx, onlyUntil{}, cutAt)
		}
		if deciders[i], err = f.host(own, i, f.approver(r.more)); err != nil {
			return nil, err
		}
		all.Go(func() {
			if !r.together {
				time.Sleep(rand.N(settled / 2))
			}
			deciders[i].Run(deciders[i].ctx)
		})
	}
	// Some time, with lists that are dated anew, until one revokes.
	for time.Until(cutAt) > 0 {
		time.Sleep(min(r.reissued, time.Until(cutAt)))
		if err := issue(); err != nil {
			return nil, err
		}
	}
	if err := issue(revoked); err != nil {
		return nil, err
	}
	out = &told{}
	began, over := time.Now(), make([]time.Duration, r.hosts)
	for waiting := r.hosts; waiting > 0 && time.Since(began) < r.give; {
		for i, d := range deciders {
			if over[i] == 0 && !d.starts() {
				over[i] = time.Since(began)
				waiting--
			}
		}
		time.Sleep(r.look)
	}
	for _, d := range over {
		if d == 0 {
			out.never++
		} else {
			out.took = append(out.took, d)
		}
	}
	out.first, out.most = f.lists.most(0, time.Second), f.lists.most(settled/2, settled)
	return out, nil
}

// settled is for how long a fleet has run before something is done to it.
const settled = 2 * time.Hour

func closeAll(list []*decider) (err error) {
	for _, d := range list {
		if d != nil {
			err = errors.Join(err, d.Ledger.Close())
		}
	}
	return err
}

// onlyUntil marks the context of a host whose network ends at a time.
type onlyUntil struct{}

// returning are hosts that were away for a week: their list is that old, and their network is there some time after the
// daemon. It returns when a task starts that is tried at once, and then as Nomad does what was refused.
func (f *fleet) returning(ctx context.Context, hosts int, network time.Duration) (took []time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	deciders := make([]*decider, hosts)
	defer func() {
		cancel()
		all.Wait()
		err = errors.Join(err, closeAll(deciders))
	}()
	if _, err := f.approve(time.Now()); err != nil {
		return nil, err
	}
	list := approval.List{}.Next(time.Now())
	text, err := list.Sign(f.key)
	if err != nil {
		return nil, err
	}
	f.lists.put(text)
	for i := range deciders {
		if deciders[i], err = f.host(ctx, i, f.approver("")); err != nil {
			return nil, err
		}
		deciders[i].RefreshLists(ctx)
	}
	time.Sleep(7*24*time.Hour + time.Minute)
	if text, err = list.Next(time.Now()).Sign(f.key); err != nil {
		return nil, err
	}
	f.lists.put(text)
	began := time.Now()
	took = make([]time.Duration, hosts)
	var tried sync.WaitGroup
	for i, d := range deciders {
		d.ctx = context.WithValue(ctx, without{}, began.Add(network))
		d.Lists = approval.OpenLists(filepath.Join(filepath.Dir(d.file), "lists")) // the daemon was started anew
		all.Go(func() { d.Run(d.ctx) })
		tried.Go(func() {
			time.Sleep(5*time.Second + rand.N(5*time.Second))
			for next := rescheduleFirst; !d.starts(); next = min(2*next, rescheduleMost) {
				time.Sleep(next)
			}
			took[i] = time.Since(began)
		})
	}
	tried.Wait()
	return took, nil
}

// push is a faulty file for all hosts, and the right one again.
type push struct {
	name   string
	text   string // what is wrong
	hosts  int
	within time.Duration // all hosts have a file, each at a time of its own
	fixed  time.Duration // when the right one begins to be distributed
	every  time.Duration // a host starts a task so often
	anew   time.Duration // when those that were refused are tried all at once, by who operates them; 0 is never
}

// pushed is what came of it.
type pushed struct {
	starts, refused int
	waiting         int             // tasks that did not run when the last host had the right file
	late            []time.Duration // of those that were refused: when they ran, after the fix was begun; not sorted
}

func (p push) run(ctx context.Context, f *fleet) (out *pushed, err error) {
	deciders := make([]*decider, p.hosts)
	defer func() { err = errors.Join(err, closeAll(deciders)) }()
	out = &pushed{}
	began := time.Now()
	end := began.Add(p.fixed + p.within)
	var all sync.WaitGroup
	var mu sync.Mutex
	var failed error
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = errors.Join(failed, err)
	}
	for i := range deciders {
		if deciders[i], err = f.host(ctx, i, permitting); err != nil {
			return nil, err
		}
		d := deciders[i]
		all.Go(func() {
			at := rand.N(p.within)
			time.Sleep(at)
			fail(d.write(p.text))
			time.Sleep(p.fixed)
			fail(d.write(permitting))
		})
		all.Go(func() {
			for time.Sleep(rand.N(p.every)); time.Now().Before(end); time.Sleep(p.every) {
				all.Go(func() {
					refused, late := p.start(d, began)
					mu.Lock()
					defer mu.Unlock()
					if out.starts++; refused {
						out.refused++
						out.late = append(out.late, late-p.fixed)
						if late > p.fixed+p.within {
							out.waiting++
						}
					}
				})
			}
		})
	}
	all.Wait()
	return out, failed
}

// start is a task's, which Nomad places again as long as it is refused, later each time.
func (p push) start(d *decider, began time.Time) (refused bool, late time.Duration) {
	for next := rescheduleFirst; !d.starts(); next = min(2*next, rescheduleMost) {
		refused = true
		wait := next
		if left := p.anew - time.Since(began); p.anew != 0 && left > 0 {
			wait = min(wait, left)
		}
		time.Sleep(wait)
	}
	return refused, time.Since(began)
}
