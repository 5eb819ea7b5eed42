package daemon

import (
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
