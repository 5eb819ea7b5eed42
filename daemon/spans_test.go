package daemon

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/internal/spans"
	"github.com/freejail/freejail/internal/testimage"
)

// receiver is a collector of spans.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex
	spans []sent
}

type sent struct {
	*trace.Span
	service string
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var in collector.ExportTraceServiceRequest
		body, err := io.ReadAll(q.Body)
		if err == nil {
			err = proto.Unmarshal(body, &in)
		}
		if err != nil || q.URL.Path != "/v1/traces" {
			t.Errorf("%s: %v", q.URL.Path, err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, res := range in.ResourceSpans {
			service := ""
			for _, a := range res.Resource.Attributes {
				if a.Key == "service.name" {
					service = a.Value.GetStringValue()
				}
			}
			for _, scope := range res.ScopeSpans {
				for _, s := range scope.Spans {
					r.spans = append(r.spans, sent{s, service})
				}
			}
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// named waits for a span of a service.
func (r *receiver) named(t *testing.T, service, name string) sent {
	t.Helper()
	for {
		r.mu.Lock()
		i := slices.IndexFunc(r.spans, func(s sent) bool { return s.service == service && s.Name == name })
		if i >= 0 {
			defer r.mu.Unlock()
			return r.spans[i]
		}
		r.mu.Unlock()
		if t.Context().Err() != nil {
			t.Fatalf("no span %s of %s", name, service)
		}
		time.Sleep(time.Millisecond)
	}
}

func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.spans)
}

// A start is one trace over the processes that have a part in it: the plugin, the daemon, and each of its steps.
func TestStartIsTraced(t *testing.T) {
	r := newReceiver(t)
	c, _ := daemonAt(t, shortDir(t), fmt.Sprintf("tracing {\n  endpoint = %q\n}\n", r.URL))
	path, err := testimage.Write(t.Context(), t.TempDir(), testimage.Spec{Name: "prog", Manifest: `{"schemaVersion":1}`,
		Cmd: []string{"inside"}})
	if err != nil {
		t.Fatal(err)
	}
	plugin, err := spans.Open(t.Context(), "plugin", "test", r.URL+"/v1/traces", func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := plugin.Begin(t.Context(), "StartTask")
	start := func(ctx context.Context, id string, want client.Wants) error {
		_, err := c.Start(ctx, client.TaskSpec{ID: id, Owner: "nomad", Image: path, Wants: want,
			Labels: map[string]string{"job": "shop", "task": "web"}})
		return err
	}
	if err := start(ctx, "one", client.Wants{}); err != nil {
		t.Fatal(err)
	}
	end(nil)
	if err := plugin.Flush(); err != nil {
		t.Fatal(err)
	}
	top, whole := r.named(t, "plugin", "StartTask"), r.named(t, "freejail", "start")
	if string(whole.ParentSpanId) != string(top.SpanId) || string(whole.TraceId) != string(top.TraceId) {
		t.Errorf("the start is not below the plugin's: %v %v", whole, top)
	}
	for _, name := range []string{"policy decision", "unpack", "step root", "step jail", "step process"} {
		s := r.named(t, "freejail", name)
		if string(s.ParentSpanId) != string(whole.SpanId) || s.StartTimeUnixNano < whole.StartTimeUnixNano ||
			s.EndTimeUnixNano > whole.EndTimeUnixNano {
			t.Errorf("%s is not within the start: %v", name, s)
		}
	}
	about := map[string]string{}
	for _, a := range whole.Attributes {
		about[a.Key] = a.Value.GetStringValue()
	}
	if about["freejail.task"] != "one" || about["nomad.job"] != "shop" || about["freejail.image"] != path {
		t.Errorf("attributes: %v", about)
	}
	r.mu.Lock()
	r.spans = nil
	r.mu.Unlock()
	if err := start(t.Context(), "two", client.Wants{Allow: []string{"raw_sockets"}}); !client.IsRefused(err) {
		t.Fatal(err)
	}
	s := r.named(t, "freejail", "start")
	if s.Status.GetCode() != trace.Status_STATUS_CODE_ERROR || !strings.Contains(s.Status.Message, "raw_sockets") ||
		len(s.ParentSpanId) != 0 {
		t.Errorf("a refused start: %v", s)
	}
	remove(t, c, "one")
}

// Spans that were not sent yet outlive an upgrade; a collector that is away holds nobody up.
func TestSpansOverAnUpgrade(t *testing.T) {
	r := newReceiver(t)
	c, stop := daemonAt(t, shortDir(t), fmt.Sprintf("tracing {\n  endpoint = %q\n}\n", r.URL))
	if _, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: "none"}); err == nil {
		t.Fatal("started nothing")
	}
	if _, err := c.Upgrade(t.Context(), client.UpgradeRequest{}); err != nil {
		t.Fatal(err)
	}
	if r.count() == 0 {
		t.Error("no span came before the upgrade was over")
	}
	r.Close()
	if _, err := c.Start(t.Context(), client.TaskSpec{ID: "one", Owner: "cli", Image: "none"}); !client.IsNotFound(err) {
		t.Error(err)
	}
	stop(os.Interrupt)
}
