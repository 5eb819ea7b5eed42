// Package api answers on the daemon's socket: who may ask, the routes, and how
// requests and answers are written. What is answered is the backend's.
package api

import (
	"context"
	"io"
	"net"
	"net/http"

	"github.com/hashicorp/go-hclog"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/daemon/works"
)

// Backend is what answers. An error of its parts that is a *client.Error reaches
// the client as it is, any other one as an internal error.
type Backend struct {
	Log    hclog.Logger
	Works  *works.Works
	Tasks  Tasks
	Events Events
	Images Images
	Policy Policy
	Host   Host
}

// Tasks are those of the host; see task.Manager.
type Tasks interface {
	// AwaitRecovery holds up requests until what an earlier daemon left is known.
	AwaitRecovery(context.Context) error
	Tasks() []client.Task
	Task(id string) (client.Task, error)
	Start(ctx context.Context, job *works.Work, spec client.TaskSpec) (*client.Task, error)
	StartAgain(ctx context.Context, job *works.Work, spec client.TaskSpec) (*client.Task, error)
	Wait(ctx context.Context, id string) (*client.Exit, error)
	Over(id string) (*client.Exit, error)
	Ends() (ended <-chan client.Ended, stop func())
	Signal(id, name string) error
	Stop(ctx context.Context, id string, r client.StopRequest) (*client.Exit, error)
	Destroy(ctx context.Context, id string, force bool) error
	Usage(id string) (client.Usage, error)
	AllUsage() (map[string]client.Usage, error)
	Exec(ctx context.Context, id string, spec client.ExecSpec, connect func() (net.Conn, io.Reader, error)) error
	Copy(ctx context.Context, id string, spec client.CopySpec, by task.Copier,
		connect func() (net.Conn, io.Reader, error)) error
	Attach(id string, connect func() (net.Conn, io.Reader, error)) error
	Logs(id, stream string) (*task.Log, error)
	Trace(ctx context.Context, id string, spec client.TraceSpec, by task.Operator,
		tell func(client.TraceEvent) error) error
}

// Events are the newest ones by their numbers.
type Events interface {
	// From is the number that a reader of events after one begins after.
	From(after uint64) uint64
	// Since returns the events after a number and a channel that closes at the next one.
	Since(after uint64) ([]client.Event, <-chan struct{})
}

// Images are those of the host, and what it exports of them.
type Images interface {
	List(context.Context) ([]client.ImageInfo, error)
	Info(ctx context.Context, ref string) (client.ImageInfo, error)
	Importing(client.ImportRequest) (Fetch, error)
	Pulling(client.PullRequest) (Fetch, error)
	Loading(client.LoadRequest) (Load, error)
	// Save writes images to what begin returns, which it calls when nothing of the request is wrong any more.
	Save(ctx context.Context, r client.SaveRequest, begin func() (to io.Writer, note func(string), err error)) error
	Remove(ref string) (client.Untagged, error)
	Tag(context.Context, client.TagRequest) (client.ImageInfo, error)
	GC(context.Context, client.GCRequest) (*client.GCResult, error)
	DiskUse(ctx context.Context, only string) (*client.DiskUse, error)
	Exports() ([]client.Export, error)
	Export(context.Context, client.ExportRequest) (*client.Export, error)
	Unexport(ctx context.Context, ref string) error
}

// Fetch gets an image, and tells how far it has come.
type Fetch = func(ctx context.Context, tell func(client.ImageProgress)) (client.ImageInfo, error)

// Load gets the images of an archive, and tells how far it has come.
type Load = func(ctx context.Context, tell func(client.ImageProgress)) (client.LoadResult, error)

// Policy decides, and keeps what an operator has approved. By is who asks.
type Policy interface {
	// Check decides about a task, and about a user who would trace it unless that is empty.
	Check(ctx context.Context, spec client.TaskSpec, tracer string) (*client.Decision, error)
	Approve(ctx context.Context, r client.ApproveRequest, by string) (*client.Approval, error)
	Revoke(ref, why, by string) ([]client.Approval, error)
	Approvals() ([]client.Approval, error)
	ApprovalLog() ([]client.ApprovalRecord, error)
}

// Host is the daemon and its host as a whole.
type Host interface {
	Info() client.Info
	Doctor(context.Context) []client.Check
	// Metrics answers in Prometheus' formats.
	Metrics() http.Handler
	RulesetInfos() []client.Ruleset
	Networks() []client.NetworkStatus
	Explain(ctx context.Context, ref string) (*client.DevfsView, error)
	// Reload reads the host's configuration and policy again, and the lists of revocations.
	Reload(context.Context) (*client.Reloaded, error)
	Shutdown(context.Context, client.ShutdownRequest) (*client.ShutdownResult, error)
	// CheckUpgrade returns the path of a binary that can take the daemon's place.
	CheckUpgrade(client.UpgradeRequest) (string, error)
	// Replace executes such a binary. It returns only when that failed.
	Replace(binary string) error
}
