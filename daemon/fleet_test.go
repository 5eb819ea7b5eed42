package daemon

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/freejail/freejail/approval"
	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/judge"
	"github.com/freejail/freejail/image/registry"
	"github.com/freejail/freejail/image/sign"
	"github.com/freejail/freejail/internal/testimage"
	"github.com/freejail/freejail/policy"
)

// tempFile is what an image asks for here, as an approval has it.
var tempFile = key("mount:tmpfs on /tmp")

func key(text string) policy.Request {
	p, err := policy.ParseKey(text)
	if err != nil {
		panic(err)
	}
	return policy.Request{Privilege: p}
}

// asking asks for a tmpfs.
var asking = testimage.Spec{Name: "prog", Cmd: []string{"inside"},
	Manifest: `{"schemaVersion":1,"requires":{"mounts":[{"type":"tmpfs","target":"/tmp"}]}}`}

// attach puts a document beside an image of the registry.
func (r *remote) attach(t *testing.T, repository, to string, doc sign.Signature) {
	t.Helper()
	c, err := registry.NewClient(registry.Config{Hosts: []registry.Host{{Name: r.host, PlainHTTP: true}}})
	if err != nil {
		t.Fatal(err)
	}
	at, err := registry.ParseLocation(r.host + "/" + repository + "@" + to)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Attach(t.Context(), at, doc, registry.Approval); err != nil {
		t.Fatal(err)
	}
}

// approves signs an approval of a digest.
func approves(t *testing.T, by *sign.PrivateKey, d string, expires time.Time, reqs ...policy.Request) (
	sign.Signature, digest.Digest) {
	t.Helper()
	a := approval.New(digest.Digest(d), "prog", reqs, time.Now(), expires)
	a.By, a.Reason = "alice", "seen"
	doc, err := a.Sign(by)
	if err != nil {
		t.Fatal(err)
	}
	return doc, a.ID()
}

func writeList(t *testing.T, path string, by *sign.PrivateKey, l approval.List) approval.List {
	t.Helper()
	b, err := l.Sign(by)
	if err == nil {
		err = os.WriteFile(path, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// fleetHost is a host with an approver and a registry.
type fleetHost struct {
	*testing.T
	r       *remote
	c       *client.Client
	stop    func(os.Signal)
	dir     string
	key     *sign.PrivateKey
	list    string // of revocations
	first   approval.List
	config  string
	started []string
}

const mayTemp = "  may {\n    mounts = [\"tmpfs:/tmp\"]\n  }\n"

func newFleetHost(t *testing.T, approver, more string) *fleetHost {
	t.Helper()
	h := &fleetHost{T: t, r: newRemote(t, ""), dir: shortDir(t), list: filepath.Join(t.TempDir(), "list")}
	private, public := keyPair(t)
	h.key = private
	h.first = writeList(t, h.list, h.key, approval.List{}.Next(time.Now()))
	h.config = fmt.Sprintf("approver \"security\" {\n  key_file = %q\n%s}\n", public,
		strings.ReplaceAll(approver, "LIST", h.list)) + more
	h.again(h.config)
	return h
}

// again starts the daemon, with another configuration beside the registry.
func (h *fleetHost) again(config string) {
	h.Helper()
	if h.stop != nil {
		h.stop(os.Kill)
	}
	h.c, h.stop = daemonAt(h.T, h.dir, h.r.config("")+config)
}

func (h *fleetHost) start(image string) error {
	h.Helper()
	id := fmt.Sprintf("t%d", len(h.started))
	_, err := h.c.Start(h.Context(), client.TaskSpec{ID: id, Owner: "nomad", Image: h.image(image)})
	if err == nil {
		h.started = append(h.started, id)
	}
	return err
}

func (h *fleetHost) image(name string) string {
	if strings.HasPrefix(name, "sha256:") {
		return name
	}
	return h.r.host + "/" + name
}

// refused wants a start to be refused, and a check to say why.
func (h *fleetHost) refused(image string, texts ...string) {
	h.Helper()
	err := h.start(image)
	if !client.IsRefused(err) {
		h.Errorf("%s: got %v, want it refused", image, err)
		return
	}
	if d := h.r.host; strings.Contains(strings.Join(texts, ""), "does not count") && !strings.Contains(err.Error(),
		"does not count") {
		h.Errorf("%s/%s: the refusal does not say why: %v", d, image, err)
	}
	d, cerr := h.c.CheckPolicy(h.Context(), client.TaskSpec{Image: h.image(image)})
	if cerr != nil {
		h.Fatal(cerr)
	}
	said := err.Error() + "\n" + strings.Join(d.Notes, "\n")
	for _, r := range d.Results {
		said += "\n" + r.Reason
	}
	for _, text := range texts {
		if !strings.Contains(said, text) {
			h.Errorf("%s: %q is not in: %s", image, text, said)
		}
	}
}

func (h *fleetHost) permitted(image string) {
	h.Helper()
	if err := h.start(image); err != nil {
		h.Errorf("%s: %v", image, err)
	}
}

func (h *fleetHost) end() {
	h.Helper()
	for _, id := range h.started {
		if err := h.c.Destroy(h.Context(), id, true); err != nil {
			h.Error(err)
		}
	}
	nothingLeft(h.T, h.dir)
}

// counts wants lines of the metrics that begin so.
func (h *fleetHost) counts(lines ...string) {
	h.Helper()
	var text strings.Builder
	if err := h.c.Metrics(h.Context(), &text); err != nil {
		h.Fatal(err)
	}
	for _, line := range lines {
		if !strings.Contains(text.String(), "\n"+line) {
			h.Errorf("%q is not in: %s", line, text.String())
		}
	}
}

// told wants an event of a task, or with an empty id of the host, with all texts in it.
func (h *fleetHost) told(id string, texts ...string) {
	h.Helper()
	all, found := "", false
	if err := h.c.Events(h.Context(), 0, false, func(e client.Event) error {
		if e.Task == id {
			all += e.Message + "\n"
			found = found || !slices.ContainsFunc(texts, func(s string) bool { return !strings.Contains(e.Message, s) })
		}
		return nil
	}); err != nil {
		h.Fatal(err)
	}
	if !found {
		h.Errorf("no event of %q has %q: %s", id, texts, all)
	}
}

func later() time.Time { return time.Now().Add(time.Hour) }

// An approval is attached in the registry, also after the image came to the host, and counts
// there, without the registry too and after a restart. Who approved is told.
func TestFleetApproval(t *testing.T) {
	h := newFleetHost(t, "  revocations = \"LIST\"\n"+mayTemp, "")
	d := h.r.push(t, "", "team/prog:1", asking)
	h.refused("team/prog:1", "no permit covers it")
	doc, id := approves(t, h.key, d, later(), tempFile)
	h.r.attach(t, "team/prog", d, doc)
	check, err := h.c.CheckPolicy(t.Context(), client.TaskSpec{Image: h.r.host + "/team/prog:1"})
	if err != nil || !check.Allowed || !strings.Contains(check.Results[0].Reason, "approved by alice, signed by security") {
		t.Errorf("got %+v, %v", check, err)
	}
	h.permitted("team/prog:1")
	list, err := h.c.Approvals(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != id.String() || list[0].Approver != "security" || list[0].Problem != "" {
		t.Errorf("got %+v, %v", list, err)
	}
	log, err := h.c.ApprovalLog(t.Context())
	if err != nil || len(log) != 1 || log[0].Action != "honour" || log[0].Approval.Approver != "security" {
		t.Errorf("got %+v, %v", log, err)
	}
	h.told(h.started[0], "approved by alice, signed by security", "mount:tmpfs on /tmp")
	h.r.down.Store(true)
	h.again(h.config)
	h.permitted("team/prog:1")
	h.permitted(d)
	h.end()
}

// What is attached to an image and is no approval of it by an approver, within its time and
// what its approver may give, does not count, and is said to be what it is.
func TestFleetAttacks(t *testing.T) {
	_, release := keyPair(t)
	host := fmt.Sprintf("deny {\n  mounts = [\"tmpfs:/denied\"]\n}\nsigner \"release\" {\n  key_file = %q\n}\n", release) +
		"require {\n  signer = [\"release\"]\n  images = [\"*/prod/**\"]\n}\n"
	h := newFleetHost(t, "  revocations = \"LIST\"\n  may {\n    mounts = [\"tmpfs:/tmp\", \"tmpfs:/denied\"]\n  }\n", host)
	stranger, _ := keyPair(t)
	other := h.r.push(t, "", "team/other:1", withFile(asking, "other"))
	signs := func(by *sign.PrivateKey, change func(*approval.Approval)) func(d string) sign.Signature {
		return func(d string) sign.Signature {
			a := approval.New(digest.Digest(d), "prog", []policy.Request{tempFile, key("mount:tmpfs on /denied"),
				key("mount:tmpfs on /big"), key("allow:raw_sockets")}, time.Now(), later())
			a.By, a.Reason = "alice", "seen"
			change(&a)
			b, err := json.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			doc, err := by.SignDocument(b) // without the checks of Sign
			if err != nil {
				t.Fatal(err)
			}
			return doc
		}
	}
	asis := func(*approval.Approval) {}
	for name, c := range map[string]struct {
		spec testimage.Spec
		doc  func(d string) sign.Signature
		want []string
	}{
		"stolen": {asking, func(string) sign.Signature { return signs(h.key, asis)(other) },
			[]string{"does not count: it is for another image, " + other}},
		"edited": {asking, func(d string) sign.Signature {
			doc := signs(h.key, asis)(other)
			doc.Payload = []byte(strings.Replace(string(doc.Payload), other, d, 1))
			return doc
		}, []string{"no permit covers it"}},
		"strange": {asking, signs(stranger, asis), []string{"no permit covers it"}},
		"expired": {asking, signs(h.key, func(a *approval.Approval) {
			a.Issued, a.NotBefore, a.Expires = a.Issued.AddDate(0, 0, -2), a.Issued.AddDate(0, 0, -2), a.Issued
		}), []string{"does not count: it has expired: it was valid until"}},
		"endless": {asking, signs(h.key, func(a *approval.Approval) { a.Expires = time.Time{} }), []string{"expires: missing"}},
		"early":   {asking, signs(h.key, func(a *approval.Approval) { a.Issued = a.Issued.Add(time.Hour) }), []string{"in the future by this host's clock"}},
		"later": {asking, signs(h.key, func(a *approval.Approval) {
			a.NotBefore, a.Expires = a.Issued.Add(time.Hour), a.Issued.Add(2*time.Hour)
		}), []string{"it is not valid before"}},
		"more": {withMount(asking, "/big"), signs(h.key, asis),
			[]string{"the approval by security", "does not count: it is more than this approver may give (freejail.hcl:"}},
		"denied": {withMount(asking, "/denied"), signs(h.key, asis), []string{"denied at freejail.hcl"}},
		"exempt": {asking, signs(h.key, func(a *approval.Approval) {
			a.Requests = append(a.Requests, approval.Request{Kind: policy.KindSignature, Value: "release"})
		}), []string{"not for approvals of a fleet"}},
	} {
		repository := "team/" + name
		d := h.r.push(t, "", repository+":1", withFile(c.spec, name))
		h.r.attach(t, repository, d, c.doc(d))
		h.refused(repository+":1", c.want...)
		if t.Failed() {
			t.Logf("above: %s", name)
		}
	}
	d := h.r.push(t, "", "prod/prog:1", withFile(asking, "prod"))
	h.r.attach(t, "prod/prog", d, signs(h.key, asis)(d))
	h.refused("prod/prog:1", "approved by alice, signed by security", "required at freejail.hcl")
	good := h.r.push(t, "", "team/good:1", withFile(asking, "good"))
	h.r.attach(t, "team/good", good, signs(h.key, asis)(good))
	h.permitted("team/good:1")
	h.end()
}

// withFile is another image that asks for the same.
func withFile(s testimage.Spec, name string) testimage.Spec {
	s.Files = map[string]string{"/etc/name": name}
	return s
}

func withMount(s testimage.Spec, target string) testimage.Spec {
	s.Manifest = strings.Replace(s.Manifest, "/tmp", target, 1)
	return s
}

// What is revoked stays so: also where an old list takes the place of the new, over restarts,
// and when the lists are lost.
func TestFleetRevocation(t *testing.T) {
	h := newFleetHost(t, "  revocations = \"LIST\"\n"+mayTemp, "")
	d := h.r.push(t, "", "team/prog:1", asking)
	doc, id := approves(t, h.key, d, later(), tempFile)
	h.r.attach(t, "team/prog", d, doc)
	again, err := h.key.SignDocument(doc.Payload) // what is signed twice is one approval
	if err != nil {
		t.Fatal(err)
	}
	h.r.attach(t, "team/prog", d, again)
	h.permitted("team/prog:1")
	writeList(t, h.list, h.key, h.first.Next(time.Now(), approval.Revoked{Approval: id, Reason: "a mistake"}))
	h.refused("team/prog:1", "it was revoked on", "a mistake")
	h.told(h.started[0], "was revoked by security", "the task runs on")
	h.told("", "approver security: list of revocations 2", "1 revocation")
	writeList(t, h.list, h.key, h.first)
	h.refused("team/prog:1", "it was revoked on")
	h.told("", "serial 1 is older than 2", "an old list again")
	h.counts(`freejail_policy_signed_approvals_total{approver="security",result="honoured"} 1`,
		`freejail_policy_signed_approvals_total{approver="security",result="refused"} 2`,
		`freejail_policy_revocations_current{approver="security"} 1`,
		`freejail_policy_revocations_issued_time_seconds{approver="security"} `)
	h.doctor("approver security", "warning", "an old list again")
	// One that was made of the older copy, and dated anew until it counts, takes nothing back.
	writeList(t, h.list, h.key, h.first.Next(time.Now()).Next(time.Now()))
	h.refused("team/prog:1", "it was revoked on")
	h.told("", "approver security: list of revocations 3", "1 of other lists, which it lacks, count too")
	h.doctor("approver security", "warning", "lacks 1 revocation of other lists")
	h.again(h.config)
	h.refused("team/prog:1", "it was revoked on")
	h.doctor("approver security", "warning", "lacks 1 revocation of other lists")
	h.stop(os.Kill)
	if err := os.RemoveAll(filepath.Join(h.dir, "state", "revocations")); err != nil {
		t.Fatal(err)
	}
	h.again(h.config)
	h.refused("team/prog:1", "it has ended: revoke on", "a mistake")
	log, err := h.c.ApprovalLog(t.Context())
	if err != nil || len(log) != 2 || log[1].Action != "revoke" || log[1].By != "security" || log[1].Why != "a mistake" {
		t.Errorf("got %+v, %v", log, err)
	}
	list, err := h.c.Approvals(t.Context())
	if err != nil || len(list) != 1 || !strings.Contains(list[0].Problem, "it has ended") {
		t.Errorf("got %+v, %v", list, err)
	}
	h.end()
}

func (h *fleetHost) doctor(name, status, text string) {
	h.Helper()
	list, err := h.c.Doctor(h.Context())
	if err != nil {
		h.Fatal(err)
	}
	for _, c := range list {
		if c.Name == name {
			if c.Status != status || !strings.Contains(c.Detail, text) {
				h.Errorf("doctor: got %+v, want %s and %q", c, status, text)
			}
			return
		}
	}
	h.Errorf("doctor has no %q", name)
}

// Where there is no current list, the host's file says what counts.
func TestFleetWithoutAList(t *testing.T) {
	for _, c := range []struct {
		name, config string
		list         func(h *fleetHost) // what there is instead
		want         string
		status       string
	}{
		{"none", "  revocations = \"LIST\"\n", func(h *fleetHost) { _ = os.Remove(h.list) }, "there is no revocation list", "error"},
		{"none, keep", "  revocations = \"LIST\"\n  when_unreachable = \"keep\"\n",
			func(h *fleetHost) { _ = os.Remove(h.list) }, "", "warning"},
		{"old", "  revocations = \"LIST\"\n", func(h *fleetHost) {
			writeList(t, h.list, h.key, approval.List{}.Next(time.Now().AddDate(0, 0, -8)))
		}, "older than max_age = 168h", "error"},
		{"old, keep", "  revocations = \"LIST\"\n  when_unreachable = \"keep\"\n", func(h *fleetHost) {
			writeList(t, h.list, h.key, approval.List{}.Next(time.Now().AddDate(0, 0, -8)))
		}, "", "warning"},
		{"long", "  revocations = \"LIST\"\n  max_age = \"240h\"\n", func(h *fleetHost) {
			writeList(t, h.list, h.key, approval.List{}.Next(time.Now().AddDate(0, 0, -8)))
		}, "", "ok"},
		{"strange", "  revocations = \"LIST\"\n", func(h *fleetHost) {
			stranger, _ := keyPair(t)
			writeList(t, h.list, stranger, approval.List{}.Next(time.Now()))
		}, "not signed by this key", "error"},
		{"unnamed", "", func(*fleetHost) {}, "", "ok"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newFleetHost(t, c.config+mayTemp, "")
			h.stop(os.Kill)
			if err := os.RemoveAll(filepath.Join(h.dir, "state", "revocations")); err != nil {
				t.Fatal(err)
			}
			c.list(h)
			h.again(h.config)
			d := h.r.push(t, "", "team/prog:1", asking)
			doc, _ := approves(t, h.key, d, later(), tempFile)
			h.r.attach(t, "team/prog", d, doc)
			if c.want == "" {
				h.permitted("team/prog:1")
			} else {
				h.refused("team/prog:1", c.want)
			}
			h.doctor("approver security", c.status, "")
			h.end()
		})
	}
}

// The lists of revocations are read by a reload, which tells what it got; of a place that is named no more nothing is
// told.
func TestReloadReadsTheListsOfRevocations(t *testing.T) {
	h := newFleetHost(t, "  revocations = \"LIST\"\n"+mayTemp, "")
	reload := func(from string, serial uint64, revoked int, failure string) {
		t.Helper()
		got, err := h.c.Reload(t.Context())
		if err != nil || len(got.Revocations) != 1 {
			t.Fatalf("got %+v, %v", got, err)
		}
		l := got.Revocations[0]
		if l.Approver != "security" || l.From != from || l.Serial != serial || l.Revoked != revoked ||
			(l.Error == "") != (failure == "") || !strings.Contains(l.Error, failure) {
			t.Errorf("got %+v", l)
		}
	}
	reload(h.list, 1, 0, "")
	second := writeList(t, h.list, h.key, h.first.Next(time.Now(), approval.Revoked{Image: digest.FromString("x"),
		Reason: "CVE"}))
	reload(h.list, 2, 1, "")
	writeList(t, h.list, h.key, h.first)
	reload(h.list, 2, 1, "an old list again")
	h.doctor("approver security", "warning", "an old list again")
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	writeList(t, elsewhere, h.key, second)
	conf := filepath.Join(h.dir, "freejail.hcl")
	b, err := os.ReadFile(conf)
	if err == nil {
		err = os.WriteFile(conf, []byte(strings.ReplaceAll(string(b), h.list, elsewhere)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	h.doctor("approver security", "ok", "list 2 of")
	reload(elsewhere, 2, 1, "")
	h.end()
}

// The approvals of an archive count as those of a registry, for the daemon and without one.
func TestFleetApprovalInAnArchive(t *testing.T) {
	h := newFleetHost(t, "  revocations = \"LIST\"\n"+mayTemp, "")
	d := h.r.push(t, "", "team/prog:1", asking)
	doc, _ := approves(t, h.key, d, later(), tempFile)
	h.r.attach(t, "team/prog", d, doc)
	file := filepath.Join(t.TempDir(), "x.tar")
	c, err := registry.NewClient(registry.Config{Hosts: []registry.Host{{Name: h.r.host, PlainHTTP: true}}})
	if err != nil {
		t.Fatal(err)
	}
	from, err := registry.ParseLocation(h.r.host + "/team/prog:1")
	if err != nil {
		t.Fatal(err)
	}
	to := registry.Location{Kind: registry.Archive, Path: file}
	if _, err := c.Copy(t.Context(), from, to, registry.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(h.dir, "freejail.hcl")
	decide := func() *client.Decision {
		got, err := judge.CheckImage(t.Context(), file, conf)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := decide(); !got.Allowed || !strings.Contains(got.Results[0].Reason, "signed by security") {
		t.Errorf("got %+v", got)
	}
	writeList(t, h.list, h.key, h.first.Next(time.Now(), approval.Revoked{Image: digest.Digest(d), Reason: "CVE"}))
	if got := decide(); got.Allowed || !strings.Contains(strings.Join(got.Notes, ""), "it was revoked on") {
		t.Errorf("got %+v", got)
	}
	writeList(t, h.list, h.key, h.first)
	h.r.down.Store(true)
	if _, err := h.c.Start(t.Context(), client.TaskSpec{ID: "archive", Owner: "nomad", Image: file}); err != nil {
		t.Error(err)
	}
	h.started = append(h.started, "archive")
	h.end()
}
