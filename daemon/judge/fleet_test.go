package judge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/approval"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/testhost"
	"github.com/freejail/freejail/policy"
)

// newFleetJudge has an approver who may give raw sockets, and one image that asks for them.
func newFleetJudge(t *testing.T) (j *Judge, key *sign.PrivateKey, info client.ImageInfo) {
	t.Helper()
	j, _, info = newJudge(t)
	private, public, err := sign.Generate(nil)
	dir := t.TempDir()
	err = errors.Join(err, os.WriteFile(dir+"/key.pub", public, 0o600), os.WriteFile(dir+"/freejail.hcl",
		[]byte("approver \"security\" {\n  key_file = \""+dir+"/key.pub\"\n  kinds = [\"allow\", \"trace\"]\n}\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if key, err = sign.ReadPrivate(private, nil); err != nil {
		t.Fatal(err)
	}
	follower, err := host.NewFollower(host.Config{Path: dir + "/freejail.hcl"}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	j.InForce = func() *host.InForce { now, _ := follower.Follow(); return now }
	j.Lists = approval.OpenLists(filepath.Join(dir, "lists"))
	return j, key, info
}

func newKey(t *testing.T) *sign.PrivateKey {
	t.Helper()
	private, _, err := sign.Generate(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := sign.ReadPrivate(private, nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// another adds an approver whose list of revocations is in a file of the host.
func (j *Judge) another(t *testing.T, key *sign.PrivateKey, revoked ...approval.Revoked) (list string) {
	t.Helper()
	now := *j.InForce()
	list = filepath.Join(t.TempDir(), "list")
	now.Approvers = append(slices.Clone(now.Approvers), host.Approver{Name: "another",
		Source: approval.Source{Key: key.Public(), From: list, MaxAge: time.Hour}})
	j.InForce = func() *host.InForce { return &now }
	writeList(t, list, key, approval.List{}, revoked...)
	return list
}

func writeList(t *testing.T, path string, key *sign.PrivateKey, l approval.List, more ...approval.Revoked) approval.List {
	t.Helper()
	l = l.Next(time.Now(), more...)
	text, err := l.Sign(key)
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (j *Judge) keep(t *testing.T, key *sign.PrivateKey, d string, issued, expires time.Time,
	more ...policy.Request) approval.Approval {
	t.Helper()
	reqs := append([]policy.Request{{Privilege: policy.Allow("raw_sockets")}}, more...)
	a := approval.New(digest.Digest(d), "prog", reqs, issued, expires)
	a.By, a.Reason = "alice", "seen"
	doc, err := a.Sign(key)
	if err == nil {
		err = j.Images.Store.AddApprovals(a.Digest, sign.Documents{doc})
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// An approval that was found to be expired stays so, whatever the clock says later.
func TestExpiredApprovalOfAFleet(t *testing.T) {
	j, key, info := newFleetJudge(t)
	now := time.Now()
	a := j.keep(t, key, info.Digest, now.Add(-time.Minute), now.Add(time.Hour))
	counts := func() (bool, string) {
		t.Helper()
		list, err := j.fleet(digest.Digest(info.Digest), j.InForce())
		if err != nil || len(list) != 1 {
			t.Fatalf("got %+v, %v", list, err)
		}
		return list[0].problem == nil, strings.Join(notCounting(list), "")
	}
	if ok, why := counts(); !ok {
		t.Fatal(why)
	}
	// As a decision finds it when its time is over.
	j.recordEnd(attached{policy.Approval{ID: a.ID().String(), Digest: info.Digest, Approver: "security",
		Fingerprint: key.Public().Fingerprint(), Expires: a.Expires}, approval.ErrExpired})
	if ok, why := counts(); ok || !strings.Contains(why, "it has ended: expire on") {
		t.Errorf("it counts again, or: %s", why)
	}
	log, err := j.ApprovalLog()
	if err != nil || len(log) != 1 || log[0].Action != "expire" || log[0].Approval.ID != a.ID().String() {
		t.Errorf("got %+v, %v", log, err)
	}
	if list, err := j.Ledger.Approvals(); err != nil || len(list) != 0 {
		t.Errorf("approvals of this host: %+v, %v", list, err)
	}
}

// An approval of a fleet is none of this host: it is not to be revoked here, and its record is
// no approval for an older daemon.
func TestApprovalsOfAFleetAreNotTheHosts(t *testing.T) {
	j, key, info := newFleetJudge(t)
	now := time.Now()
	a := j.keep(t, key, info.Digest, now, now.Add(time.Hour))
	if err := j.recordHonour(policy.Approval{ID: a.ID().String(), Digest: info.Digest, Approver: "security"}); err != nil {
		t.Fatal(err)
	}
	if list, err := j.Ledger.Approvals(); err != nil || len(list) != 0 {
		t.Errorf("approvals of this host: %+v, %v", list, err)
	}
	_, err := j.Revoke(a.ID().String(), "", "root")
	if !client.IsNotFound(err) || !strings.Contains(err.Error(), "by its approver") {
		t.Errorf("got %v", err)
	}
	list, err := j.Approvals()
	if err != nil || len(list) != 1 || list[0].Approver != "security" || list[0].Problem != "" {
		t.Errorf("got %+v, %v", list, err)
	}
}

// What the host's approvers have signed is kept before whatever else an archive brings.
func TestApproversGoFirst(t *testing.T) {
	j, key, info := newFleetJudge(t)
	stranger, now := newKey(t), time.Now()
	j.keep(t, key, info.Digest, now, now.Add(time.Hour))
	for range 3 {
		var others sign.Documents
		for range 60 {
			doc, err := stranger.SignDocument([]byte(time.Now().String()))
			if err != nil {
				t.Fatal(err)
			}
			others = append(others, doc)
		}
		if err := j.Images.Store.AddApprovals(digest.Digest(info.Digest), others); err != nil {
			t.Fatal(err)
		}
	}
	docs, err := j.Images.Store.Approvals(digest.Digest(info.Digest))
	if err != nil || len(docs) > 100 {
		t.Errorf("%d are kept, %v", len(docs), err)
	}
	if list, err := j.fleet(digest.Digest(info.Digest), j.InForce()); err != nil || len(list) != 1 {
		t.Errorf("got %+v, %v", list, err)
	}
}

// Who signs what another has approved, and revokes that, ends nothing of the other's.
func TestAnotherApproverOfTheSame(t *testing.T) {
	j, key, info := newFleetJudge(t)
	other, now := newKey(t), time.Now()
	a := j.keep(t, key, info.Digest, now.Add(-time.Minute), now.Add(time.Hour))
	docs, err := j.Images.Store.Approvals(a.Digest)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := other.SignDocument(docs[0].Payload)
	if err == nil {
		err = j.Images.Store.AddApprovals(a.Digest, sign.Documents{doc})
	}
	if err != nil {
		t.Fatal(err)
	}
	j.another(t, other, approval.Revoked{Approval: a.ID(), Reason: "mine alone"})
	j.prepare(t.Context())
	for range 2 { // the second time the end of the other's is in the ledger
		list, err := j.fleet(a.Digest, j.InForce())
		if by := counting(list); err != nil || len(list) != 2 || len(by) != 1 || by[0].Approver != "security" {
			t.Errorf("got %+v, %v", list, err)
		}
	}
	list, err := j.fleet(a.Digest, j.InForce())
	for _, one := range list {
		err = errors.Join(err, j.recordHonour(one.Approval))
	}
	log, lerr := j.Ledger.Records()
	if err = errors.Join(err, lerr); err != nil || len(log) != 3 || log[1].Approval.Approver == log[2].Approval.Approver {
		t.Errorf("got %+v, %v", log, err)
	}
}

// What a list that was fetched has ended stays so, also where nothing has asked about it before
// a later list is silent about it.
func TestRevocationThatNoStartHasSeen(t *testing.T) {
	j, _, info := newFleetJudge(t)
	key, now := newKey(t), time.Now()
	a := j.keep(t, key, info.Digest, now.Add(-time.Minute), now.Add(time.Hour))
	list := j.another(t, key, approval.Revoked{Approval: a.ID(), Reason: "CVE"})
	j.prepare(t.Context())
	writeList(t, list, key, approval.List{Serial: 1, Issued: now.UTC().Add(-time.Minute)})
	j.prepare(t.Context())
	who := j.InForce().Approvers[1]
	if st := j.Lists.State(who.Source); st.Err != nil || st.List.Serial != 2 || len(st.List.Revoked) > 0 {
		t.Fatalf("got %+v", st)
	}
	got, err := j.fleet(a.Digest, j.InForce())
	if err != nil || len(got) != 1 || len(counting(got)) > 0 || !strings.Contains(notCounting(got)[0], "CVE") {
		t.Errorf("got %+v, %v", got, err)
	}
}

// An approval that expires while nothing asks about it has ended, whatever the clock says later.
func TestExpiryThatNoStartHasSeen(t *testing.T) {
	j, key, info := newFleetJudge(t)
	now := time.Now()
	j.keep(t, key, info.Digest, now.Add(-time.Hour), now.Add(-time.Minute))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	j.Run(ctx) // once
	if log, err := j.Ledger.Records(); err != nil || len(log) != 1 || log[0].Action != "expire" {
		t.Errorf("got %+v, %v", log, err)
	}
}

// permitted are tasks whose own requests are all permitted.
type permitted struct {
	Tasks
	of policy.Subject
}

func (p permitted) Check(context.Context, client.TaskSpec) (policy.Subject, policy.Decision, []string, error) {
	return p.of, policy.Decision{Allowed: true}, nil, nil
}

// A check tells of a user who would trace what a trace would, by a fleet's approvals too, and
// goes on without those that cannot be read, as a start does.
func TestCheckOfATracer(t *testing.T) {
	j, key, info := newFleetJudge(t)
	j.Tasks = permitted{j.Tasks, policy.Subject{Image: "prog", Digest: info.Digest}}
	who, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	uid, err := strconv.Atoi(who.Uid)
	if err != nil {
		t.Fatal(err)
	}
	check := func() *client.Decision {
		t.Helper()
		d, err := j.Check(t.Context(), client.TaskSpec{}, who.Username)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if d := check(); d.Allowed {
		t.Errorf("without an approval: %+v", d)
	}
	j.keep(t, key, info.Digest, time.Now(), time.Now().Add(time.Hour),
		task.TraceRequest(task.Operator{User: who.Username, UID: uid}))
	if d := check(); !d.Allowed {
		t.Errorf("with an approval: %+v", d)
	}
	file := "approvals/" + digest.Digest(info.Digest).Encoded() + ".json"
	if err := os.WriteFile(filepath.Join(j.Images.Store.Dir(), file), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if d := check(); d.Allowed || !strings.Contains(strings.Join(d.Notes, ""), "no signed approval counts: ") {
		t.Errorf("with a file that is damaged: %+v", d)
	}
}

// Hosts that began at once, as after a power failure, do not ask for lists in the same moments ever after.
func TestListsAreNotAskedForByAllAtOnce(t *testing.T) {
	j, key, _ := newFleetJudge(t)
	now := *j.InForce()
	now.Approvers = []host.Approver{{Name: "security", Source: approval.Source{Key: key.Public(),
		From: "https://lists.example/list", MaxAge: time.Hour}}}
	j.InForce = func() *host.InForce { return &now }
	asked := map[string][]time.Time{} // by whose context it is
	var mu sync.Mutex
	testhost.Answer(t, func(req *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		by := req.Context().Value(asking{}).(string)
		asked[by] = append(asked[by], time.Now())
		return nil, errors.New("no list")
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*refreshEvery-time.Second)
		defer cancel()
		began, seconds := time.Now(), map[int]bool{}
		var all sync.WaitGroup
		for i := range 10 {
			other := &Judge{Ledger: j.Ledger, Images: j.Images, Tasks: &running{}, Log: j.Log, InForce: j.InForce,
				Lists: approval.OpenLists(t.TempDir())}
			all.Go(func() { other.Run(context.WithValue(ctx, asking{}, strconv.Itoa(i))) })
		}
		all.Wait()
		for by, times := range asked {
			if len(times) < 3 || times[0] != began {
				t.Fatalf("%s has asked at %v", by, times)
			}
			for i := range times[1:] {
				if d := times[i+1].Sub(times[i]); d > refreshEvery {
					t.Errorf("%s has waited for %s", by, d)
				}
			}
			seconds[int(times[1].Sub(began).Seconds())] = true
		}
		if len(asked) != 10 || len(seconds) < 3 {
			t.Errorf("%d hosts have asked for the second time in %d different seconds", len(asked), len(seconds))
		}
	})
}

type asking struct{}

// A host that was away hears what was revoked before its first start, also while the list that it has is new enough; one
// without a current list asks again soon.
func TestHostThatWasAway(t *testing.T) {
	for _, keep := range []bool{false, true} {
		j, key, info := newFleetJudge(t)
		issued := time.Now().Add(-2 * time.Hour)
		a := j.keep(t, key, info.Digest, issued, issued.Add(100*time.Hour))
		old := approval.List{}.Next(issued)
		text, err := old.Sign(key)
		newest, err2 := old.Next(time.Now(), approval.Revoked{Approval: a.ID(), Reason: "a mistake"}).Sign(key)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		now := *j.InForce()
		now.Approvers = []host.Approver{{Name: "security", Source: approval.Source{Key: key.Public(), Keep: keep,
			From: "https://lists.example/list", MaxAge: 3 * time.Hour}}}
		j.InForce = func() *host.InForce { return &now }
		var failed error
		asked := 0
		testhost.Answer(t, func(req *http.Request) (*http.Response, error) {
			if asked++; failed != nil {
				return nil, failed
			}
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(text)), Request: req}, nil
		})
		dir := t.TempDir()
		counts := func() bool {
			t.Helper()
			j.prepare(t.Context())
			list, err := j.fleet(digest.Digest(info.Digest), j.InForce())
			if err != nil || len(list) != 1 {
				t.Fatalf("got %+v, %v", list, err)
			}
			return list[0].problem == nil
		}
		j.Lists = approval.OpenLists(dir)
		if first, again := counts(), counts(); !first || !again || asked != 1 {
			t.Fatalf("keep %v: asked %d times while it counts", keep, asked)
		}
		// Its list is too old, and the network is not there yet.
		j.Lists, failed = approval.OpenLists(dir), errors.New("no route to host")
		now.Approvers[0].MaxAge = time.Hour
		if first, again := counts(), counts(); first != keep || again != keep || asked != 2 {
			t.Errorf("keep %v: asked %d times without a network", keep, asked)
		}
		j.Lists, text, failed = approval.OpenLists(dir), newest, nil
		if counts() || asked != 3 {
			t.Errorf("keep %v: asked %d times, and what was revoked meanwhile counts", keep, asked)
		}
	}
}
