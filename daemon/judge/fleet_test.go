package judge

import (
	"context"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/approval"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/host"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/image/sign"
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
