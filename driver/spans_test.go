package driver

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	protobuf "google.golang.org/protobuf/proto"
)

// The environment of Nomad's agent has the plugin's part of a start traced, also one that fails.
func TestPluginIsTraced(t *testing.T) {
	var got []*trace.Span
	r := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		var in collector.ExportTraceServiceRequest
		body, err := io.ReadAll(q.Body)
		if err == nil {
			err = protobuf.Unmarshal(body, &in)
		}
		if err != nil {
			t.Error(err)
		}
		for _, res := range in.ResourceSpans {
			got = append(got, res.ScopeSpans[0].Spans...)
		}
	}))
	defer r.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.URL)
	d := New(hclog.NewNullLogger(), "test")
	d.openSpans()
	if _, err := d.StartTask(t.Context(), &proto.StartTaskRequest{Task: &proto.TaskConfig{Name: "web", JobName: "shop",
		MsgpackDriverConfig: []byte{0xc1}}}); err == nil {
		t.Fatal("a configuration that cannot be read was started")
	}
	if err := d.spans.Flush(); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Name != "StartTask" || got[0].Status.GetCode() != trace.Status_STATUS_CODE_ERROR {
		t.Errorf("%v", got)
	}
}
