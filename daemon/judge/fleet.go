package judge

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/approval"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/ledger"
	"github.com/freejail/freejail/image"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/printable"
	"github.com/freejail/freejail/policy"
)

// attached is an approval that one of the host's approvers has signed, and that lies beside
// an image.
type attached struct {
	policy.Approval
	problem error // why it does not count; nil is that it does, within what its approver may give
}

// verified are the approvals among documents that one of the approvers has signed. check says
// why one does not count that is of the image and in its time.
func verified(docs sign.Documents, d digest.Digest, by []host.Approver,
	check func(host.Approver, *approval.Approval) error) (out []attached) {
	now, seen := time.Now(), map[string]bool{} // what was signed twice is one approval
	for _, doc := range docs {
		for _, who := range by {
			if !who.Key.Signed(doc) {
				continue
			}
			a, err := approval.Read(doc, who.Key)
			own := attached{policy.Approval{ID: digest.FromBytes(doc.Payload).String(), Digest: a.Digest.String(),
				Image: a.Image, Requests: a.Approved(), By: a.By, Why: a.Reason, At: a.Issued, Expires: a.Expires,
				Approver: who.Name, Fingerprint: who.Key.Fingerprint()}, err}
			if seen[identity(own.Approval)] {
				continue
			}
			seen[identity(own.Approval)] = true
			if err == nil {
				own.problem = a.Holds(d, now)
			}
			if own.problem == nil {
				own.problem = check(who, &a)
			}
			out = append(out, own)
		}
	}
	return out
}

// identity is what was signed, and by which key: another approver who signs the same has given
// another approval, whose end is another.
func identity(a policy.Approval) string { return a.ID + " " + a.Fingerprint }

func counting(list []attached) (out []policy.Approval) {
	for _, a := range list {
		if a.problem == nil {
			out = append(out, a.Approval)
		}
	}
	return out
}

// notCounting says of each approval that does not count why.
func notCounting(list []attached) (out []string) {
	for _, a := range list {
		if a.problem != nil {
			out = append(out, fmt.Sprintf("the approval %s by %s does not count: %v", shortID(a.ID), a.Approver,
				a.problem))
		}
	}
	return out
}

// fleetNotes say which approvals of a fleet do not count, and why there may be none.
func fleetNotes(list []attached, err error) []string {
	notes := notCounting(list)
	if err != nil {
		notes = append(notes, fmt.Sprintf("no signed approval counts: %v", err))
	}
	return notes
}

func shortID(id string) string {
	hex := strings.TrimPrefix(id, "sha256:")
	return hex[:min(12, len(hex))]
}

// fleet are the approvals beside an image by the approvers in force. That one has expired or
// was revoked is recorded: neither a clock that is set back nor a list that is lost brings it
// back.
func (j *Judge) fleet(d digest.Digest, now *host.InForce) ([]attached, error) {
	return j.fleetOf(d, now, j.ended)
}

// ended are the approvals of a fleet that were found to be over, by their identity.
func (j *Judge) ended() (map[string]ledger.Record, error) {
	records, err := j.Ledger.Records()
	over := map[string]ledger.Record{}
	for _, r := range records {
		if r.Approval.Approver != "" && r.Action != ledger.Honour {
			over[identity(r.Approval)] = r
		}
	}
	return over, err
}

// fleetOf is fleet for many images: ended, which reads the whole ledger, is called where there are approvals, and may
// always return the same map.
func (j *Judge) fleetOf(d digest.Digest, now *host.InForce,
	ended func() (map[string]ledger.Record, error)) ([]attached, error) {
	if len(now.Approvers) == 0 {
		return nil, nil
	}
	docs, err := j.Images.Store.Approvals(d)
	if err != nil {
		return nil, err
	}
	if len(docs) == 0 {
		return nil, nil
	}
	over, err := ended()
	if err != nil {
		return nil, err
	}
	list := verified(docs, d, now.Approvers, func(who host.Approver, a *approval.Approval) error {
		return j.Lists.Check(who.Source, a, time.Now())
	})
	for i := range list {
		id := identity(list[i].Approval)
		if r, before := over[id]; before {
			if list[i].problem == nil {
				list[i].problem = fmt.Errorf("it has ended: %s on %s, %s", r.Action, r.At.Format(time.DateOnly), r.Why)
			}
		} else if r, ends := j.recordEnd(list[i]); ends {
			over[id] = r
		}
	}
	return list, nil
}

// recordEnd records that an approval has expired or was revoked, if it has.
func (j *Judge) recordEnd(a attached) (r ledger.Record, ends bool) {
	var revoked *approval.RevokedError
	r = ledger.Record{Approval: a.Approval, At: time.Now(), By: "freejail"}
	switch {
	case errors.Is(a.problem, approval.ErrExpired):
		r.Action, r.Why = "expire", "it was in force until "+a.Expires.Format(time.RFC3339)
	case errors.As(a.problem, &revoked):
		r.Action, r.By, r.Why = "revoke", a.Approver, revoked.Reason
	default:
		return r, false
	}
	j.Log.Info("approval of the fleet ended", "action", r.Action, "id", a.ID, "digest", a.Digest,
		"approver", a.Approver, "why", r.Why)
	if err := j.Ledger.Note(r); err != nil {
		j.Log.Warn("the end of an approval is not recorded", "error", err)
	}
	return r, true
}

// told are the approvals that were told of tasks.
type told struct {
	mu   sync.Mutex
	seen map[[2]string]bool
}

const maxTold = 10_000

func (t *told) first(id, what string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen == nil || len(t.seen) > maxTold {
		t.seen = map[[2]string]bool{}
	}
	key := [2]string{id, what}
	before := t.seen[key]
	t.seen[key] = true
	return !before
}

// honoured tells a task, and the log, by which approvals of the fleet it starts.
func (j *Judge) honoured(spec client.TaskSpec, dec policy.Decision) {
	by := map[string]*policy.Approval{}
	keys := map[string][]string{}
	for _, r := range dec.Results {
		if r.Approval != nil && r.Approval.Approver != "" {
			id := identity(*r.Approval)
			by[id] = r.Approval
			keys[id] = append(keys[id], r.Key())
		}
	}
	for id, a := range by {
		j.Record.Approved(a.Approver, true)
		if j.told.first(spec.ID, id) {
			j.Tasks.Event(spec.ID, "approval", fmt.Sprintf("approved by %s, signed by %s until %s: %s", a.By,
				a.Approver, a.Expires.Format(time.RFC3339), strings.Join(keys[id], ", ")))
		}
		if err := j.recordHonour(*a); err != nil {
			j.Log.Warn("that an approval is honoured is not recorded", "error", err)
		}
	}
}

// recordHonour records once that this host starts tasks by an approval.
func (j *Judge) recordHonour(a policy.Approval) error {
	if !j.told.first("", identity(a)) {
		return nil
	}
	records, err := j.Ledger.Records()
	if err != nil || slices.ContainsFunc(records, func(r ledger.Record) bool {
		return r.Action == ledger.Honour && identity(r.Approval) == identity(a)
	}) {
		return err
	}
	return j.Ledger.Note(ledger.Record{Action: ledger.Honour, Approval: a, By: a.Approver, At: time.Now(), Why: a.Why})
}

// Permit decides about a start. Before it refuses, it asks the image's registry for approvals
// that were attached since it was pulled.
func (j *Judge) Permit(ctx context.Context, spec client.TaskSpec, img *image.Image, reqs []policy.Request) error {
	j.prepare(ctx)
	s, dec, err := j.Decision(spec, img, reqs)
	if err != nil {
		return err
	}
	if refusedOnly(dec) && j.Images.SeekApprovals(ctx, spec.ID, img.Name, img.Digest) {
		if s, dec, err = j.Decision(spec, img, reqs); err != nil {
			return err
		}
	}
	var notes []string
	if !dec.Allowed {
		list, err := j.fleet(img.Digest, j.InForce())
		notes = fleetNotes(list, err)
		for _, a := range list {
			if a.problem != nil {
				j.Record.Approved(a.Approver, false)
			}
		}
	}
	if err := j.decided(s, dec, notes); err != nil {
		return err
	}
	j.honoured(spec, dec)
	return nil
}

// refusedOnly tells whether an approval could help.
func refusedOnly(dec policy.Decision) bool {
	return !dec.Allowed && !slices.ContainsFunc(dec.Results, func(r policy.Result) bool { return r.Denied })
}

// askAgain is after which a list that could not be had is asked for again by a start.
const askAgain = 30 * time.Second

// prepare fetches lists of revocations of which there is no current one, which this daemon has not asked for yet, as
// its host may have been away while something was revoked, and those in files.
func (j *Judge) prepare(ctx context.Context) {
	for _, who := range j.InForce().Approvers {
		st := j.Lists.State(who.Source)
		old := st.Tried.IsZero() || who.Current(st, time.Now()) != nil && time.Since(st.Tried) > askAgain
		if who.IsFile() || who.From != "" && old {
			j.refresh(ctx, who)
		}
	}
}

// refresh fetches one list, tells what is new of it, and records what that ends.
func (j *Judge) refresh(ctx context.Context, who host.Approver) {
	before := j.Lists.State(who.Source).Err
	news, err := j.Lists.Refresh(ctx, who.Source)
	if err != nil && ctx.Err() == nil && (before == nil || before.Error() != err.Error()) {
		j.Tasks.Event("", "approval", fmt.Sprintf("approver %s: %s", who.Name, printable.Flat(err.Error())))
	}
	if news { // also where it could not be kept
		st := j.Lists.State(who.Source)
		text := fmt.Sprintf("approver %s: list of revocations %d of %s, %s", who.Name, st.List.Serial,
			st.List.Issued.Format(time.RFC3339), printable.Count(len(st.List.Revoked), "revocation"))
		if n := st.Lacks(); n > 0 {
			text += fmt.Sprintf("; %d of other lists, which it lacks, count too", n)
		}
		j.Tasks.Event("", "approval", text)
		j.tellRevocations()
		j.recordEnds()
	}
}

// recordEnds records which approvals have ended beside any image of this host, so that none
// comes back that no start has asked about meanwhile.
func (j *Judge) recordEnds() {
	if _, err := j.fleetApprovals(); err != nil {
		j.Log.Warn("the end of approvals", "error", err)
	}
}

// tellRevocations tells the owners of tasks that run by approvals which are revoked by now.
func (j *Judge) tellRevocations() {
	now, ended := j.InForce(), sync.OnceValues(j.ended)
	for _, t := range j.Tasks.Alive() {
		list, err := j.fleetOf(digest.Digest(t.Digest), now, ended)
		if err != nil {
			j.Log.Warn("approvals of a running task", "task", t.Spec.ID, "error", err)
		}
		for _, a := range list {
			revoked := errors.As(a.problem, new(*approval.RevokedError))
			if revoked && j.told.first(t.Spec.ID, "revoked "+identity(a.Approval)) {
				j.tellTaskRevoked(t, a.Approval, a.Approver)
			}
		}
	}
}

// refreshEvery is how often lists are fetched.
const refreshEvery = 5 * time.Minute

// Run fetches the approvers' lists of revocations, and records which approvals have ended,
// until ctx ends.
func (j *Judge) Run(ctx context.Context) {
	next := time.NewTimer(rand.N(refreshEvery)) // hosts that began together do not ask together for ever
	defer next.Stop()
	for {
		for _, who := range j.InForce().Approvers {
			if who.From != "" {
				j.refresh(ctx, who)
			}
		}
		j.recordEnds()
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			next.Reset(refreshEvery)
		}
	}
}

// RefreshLists fetches the list of each approver who has one now, and tells what is known of it then.
func (j *Judge) RefreshLists(ctx context.Context) (out []client.RevocationList) {
	out = []client.RevocationList{}
	for _, who := range j.InForce().Approvers {
		if who.From == "" {
			continue
		}
		j.refresh(ctx, who)
		st := j.Lists.State(who.Source)
		l := client.RevocationList{Approver: who.Name, From: who.From}
		if st.List != nil {
			l.Serial, l.Issued, l.Revoked = st.List.Serial, st.List.Issued, len(st.List.Revoked)+st.Lacks()
		}
		if st.Err != nil {
			l.Error = st.Err.Error()
		}
		out = append(out, l)
	}
	return out
}

// fleetApprovals are those beside the images of this host.
func (j *Judge) fleetApprovals() (out []client.Approval, err error) {
	now, seen, ended := j.InForce(), map[digest.Digest]bool{}, sync.OnceValues(j.ended)
	for img, ierr := range j.Images.Store.All() {
		if ierr != nil || seen[img.Digest] {
			continue // `freejail images` tells of one that cannot be read
		}
		seen[img.Digest] = true
		list, ferr := j.fleetOf(img.Digest, now, ended)
		err = errors.Join(err, ferr)
		for _, a := range list {
			w := wireApproval(a.Approval)
			if a.problem != nil {
				w.Problem = a.problem.Error()
			}
			out = append(out, w)
		}
	}
	return out, err
}
