package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"reflect"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/freejail/freejail/internal/spans"
)

// Client calls one daemon. It keeps no state but idle connections and may be
// used from several goroutines.
type Client struct {
	// Waiting is told while a call waits for a daemon that has just begun; nil is nobody.
	Waiting func(why string)

	socket string
	http   *http.Client
}

// New returns a client of the daemon at socket. It does not connect yet.
func New(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", socket)
		if err != nil {
			return nil, err
		}
		return &line{Conn: conn}, nil
	}
	// The daemon closes what is idle for longer.
	transport := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second}
	changes := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	return &Client{socket: socket, http: &http.Client{Transport: &roads{transport, changes}}}
}

// roads has a connection of its own for each request that may change something: one that comes on a connection which
// the daemon closes just then, as for an upgrade, is made again for questions alone.
type roads struct {
	*http.Transport
	changes *http.Transport
}

// RoundTrip sends one request. Not each error of one whose connection the other end has closed tells so: net/http has
// one without a name, for where that was read before the request went out.
func (r *roads) RoundTrip(q *http.Request) (resp *http.Response, err error) {
	var conn net.Conn
	q = q.WithContext(httptrace.WithClientTrace(q.Context(), &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { conn = i.Conn }}))
	if q.Method == http.MethodGet {
		resp, err = r.Transport.RoundTrip(q)
	} else {
		resp, err = r.changes.RoundTrip(q)
	}
	if l, ok := conn.(*line); ok && err != nil && l.ended.Load() {
		err = fmt.Errorf("%w: %w", ErrBrokenOff, err)
	}
	return resp, err
}

// line is a connection that notes whether its other end has closed it.
type line struct {
	net.Conn
	ended atomic.Bool
}

func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if err != nil && errors.Is(brokenOff(err), ErrBrokenOff) {
		l.ended.Store(true)
	}
	return n, err
}

// Socket is the path that the client connects to.
func (c *Client) Socket() string { return c.socket }

// ErrNoDaemon means that nothing answers on the socket.
var ErrNoDaemon = errors.New("no freejail daemon answers")

// ErrDenied means that the socket is there, and not for this user.
var ErrDenied = errors.New("permission denied")

// ErrBrokenOff means that the daemon went away before it had answered wholly.
var ErrBrokenOff = errors.New("the daemon ended or was upgraded meanwhile")

// brokenOff says in plain words that the other end of a connection is gone.
func brokenOff(err error) error {
	for _, gone := range []error{ErrBrokenOff, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, gone) {
			return ErrBrokenOff
		}
	}
	return err
}

// Info describes the daemon and its host.
func (c *Client) Info(ctx context.Context) (*Info, error) { return get[*Info](ctx, c, "/v1/info") }

// Start runs a task and returns when its process runs, or the reason why not;
// then nothing of it is left on the host.
func (c *Client) Start(ctx context.Context, spec TaskSpec) (*Task, error) {
	return again(ctx, func() (*Task, error) { return call[*Task](ctx, c, http.MethodPost, "/v1/tasks", spec) })
}

// StartAgain is Start in the place of a task with the same id that has ended. That is there as it was where the start
// fails.
func (c *Client) StartAgain(ctx context.Context, spec TaskSpec) (*Task, error) {
	return again(ctx, func() (*Task, error) {
		return call[*Task](ctx, c, http.MethodPost, "/v1/tasks?again=true", spec)
	})
}

// again repeats a call that an upgrade of the daemon has ended, and that left
// nothing behind.
func again[T any](ctx context.Context, call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if !hasCode(err, CodeUpgrading) {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Tasks lists every task that the daemon knows, exited ones included.
func (c *Client) Tasks(ctx context.Context) ([]Task, error) { return get[[]Task](ctx, c, "/v1/tasks") }

// TasksNow is Tasks without waiting for a daemon that has just begun.
func (c *Client) TasksNow(ctx context.Context) ([]Task, error) {
	return get[[]Task](ctx, c, "/v1/tasks?now=true")
}

// Task returns one task.
func (c *Client) Task(ctx context.Context, id string) (*Task, error) {
	return get[*Task](ctx, c, taskPath(id))
}

// Wait returns how the task ended, waiting for it as long as ctx allows.
func (c *Client) Wait(ctx context.Context, id string) (*Exit, error) {
	return get[*Exit](ctx, c, taskPath(id)+"/wait")
}

// Over tells how a task has ended; nil where it has not.
func (c *Client) Over(ctx context.Context, id string) (*Exit, error) {
	e, err := get[*Ended](ctx, c, taskPath(id)+"/over")
	if err != nil {
		return nil, err
	}
	return e.Exit, nil
}

// ErrOlder means that the daemon is of a version that does not have what it was asked for.
var ErrOlder = errors.New("the daemon is of an older version")

// Ends calls f for each task that is over since begun was called, by one connection for all, until the daemon or ctx
// ends. What has ended before is to be asked for, by Over, once it has begun. An older daemon is ErrOlder.
func (c *Client) Ends(ctx context.Context, begun func(), f func(Ended)) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/ends", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	begun()
	next := lines[Ended](fromDaemon{resp.Body})
	for {
		e, err := next()
		if err != nil {
			return err
		}
		f(e)
	}
}

// Signal sends a signal ("SIGHUP") to the task's main process.
func (c *Client) Signal(ctx context.Context, id, signal string) error {
	_, err := call[any](ctx, c, http.MethodPost, taskPath(id)+"/signal", map[string]string{"signal": signal})
	return err
}

// Stop ends a task and returns when it is gone. The daemon after an upgrade goes on with what was begun.
func (c *Client) Stop(ctx context.Context, id string, r StopRequest) (*Exit, error) {
	stop := func() (*Exit, error) { return call[*Exit](ctx, c, http.MethodPost, taskPath(id)+"/stop", r) }
	exit, err := stop()
	for errors.Is(err, ErrBrokenOff) && ctx.Err() == nil {
		t, taskErr := c.Task(ctx, id)
		switch {
		case taskErr != nil:
			return nil, err
		case t.State == Stopping: // no program gets its signal twice
			exit, err = c.Wait(ctx, id)
		default: // it was not begun, or is over
			exit, err = stop()
		}
	}
	return exit, err
}

// Destroy forgets a task. One that still runs is an error unless force is
// set, which kills it. An unknown task is no error with force: then the call is made again where an upgrade of the
// daemon has broken it off.
func (c *Client) Destroy(ctx context.Context, id string, force bool) error {
	for {
		_, err := call[any](ctx, c, http.MethodDelete, taskPath(id)+"?force="+strconv.FormatBool(force), nil)
		if !force || !errors.Is(err, ErrBrokenOff) {
			return err
		}
		if _, infoErr := c.Info(ctx); infoErr != nil {
			return err
		}
	}
}

// Stats samples one task.
func (c *Client) Stats(ctx context.Context, id string) (*Usage, error) {
	return get[*Usage](ctx, c, taskPath(id)+"/stats")
}

// AllStats samples all tasks in one pass, by task id.
func (c *Client) AllStats(ctx context.Context) (map[string]Usage, error) {
	return get[map[string]Usage](ctx, c, "/v1/stats")
}

// Logs copies a task's log ("stdout" or "stderr") to w, going on with what is
// added until the task ends if follow is set. tail is the number of lines to
// begin with, negative for all.
func (c *Client) Logs(ctx context.Context, id, stream string, follow bool, tail int, w io.Writer) error {
	q := url.Values{"stream": {stream}, "follow": {strconv.FormatBool(follow)}, "tail": {strconv.Itoa(tail)}}
	resp, err := c.do(ctx, http.MethodGet, taskPath(id)+"/logs?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, fromDaemon{resp.Body})
	return err
}

// LogStart is the header of a log's answer with the offset of its first byte in all
// that the task wrote to the stream, where the daemon knows that.
const LogStart = "Freejail-Log-Start"

// ErrPlaceLost means that a log cannot be gone on with where it broke off.
var ErrPlaceLost = errors.New("what the task wrote since is in its log, but not at a place that is known")

// LogReading follows a log over the ends of daemons.
type LogReading struct {
	Task, Stream string
	Tail         int // as for Logs
	To           io.Writer
	Begun        func() // called when nothing that the task writes is missed any more; may be nil

	begun, known bool
	at           int64 // offset of what comes next, where it is known
}

// FollowLog is Logs; after ErrBrokenOff another call goes on where that one was
// broken off, without gap and repetition, or fails with ErrPlaceLost.
func (c *Client) FollowLog(ctx context.Context, r *LogReading) error {
	tail := r.Tail
	if r.begun {
		tail = -1
	}
	q := url.Values{"stream": {r.Stream}, "follow": {"true"}, "tail": {strconv.Itoa(tail)}}
	resp, err := c.do(ctx, http.MethodGet, taskPath(r.Task)+"/logs?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body := fromDaemon{resp.Body}
	start, err := strconv.ParseInt(resp.Header.Get(LogStart), 10, 64)
	switch {
	case !r.begun:
		r.begun, r.known, r.at = true, err == nil, start
		if r.Begun != nil {
			r.Begun()
		}
	case !r.known || err != nil || start > r.at:
		return ErrPlaceLost
	default:
		if _, err := io.CopyN(io.Discard, body, r.at-start); err != nil {
			return err
		}
	}
	n, err := io.Copy(r.To, body)
	r.at += n
	return err
}

// fromDaemon tells a broken connection from an error of who is written to.
type fromDaemon struct{ io.Reader }

func (r fromDaemon) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = brokenOff(err)
	}
	return n, err
}

// Events calls f for every event after the given sequence number; with follow
// it goes on until ctx ends or f returns an error.
func (c *Client) Events(ctx context.Context, after uint64, follow bool, f func(Event) error) error {
	q := url.Values{"after": {strconv.FormatUint(after, 10)}, "follow": {strconv.FormatBool(follow)}}
	resp, err := c.do(ctx, http.MethodGet, "/v1/events?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	next := lines[Event](fromDaemon{resp.Body})
	for {
		e, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = f(e)
		}
		if err != nil {
			return err
		}
	}
}

// What an answer, and a line of one with many, may have; an answer without
// lines is held in memory whole.
const (
	maxAnswer = 64 << 20
	maxLine   = 4 << 20
)

// lines reads JSON values of a line each, until io.EOF.
func lines[T any](r io.Reader) func() (T, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxLine)
	return func() (v T, err error) {
		if sc.Scan() {
			return v, json.Unmarshal(sc.Bytes(), &v)
		}
		if err = sc.Err(); err == nil {
			err = io.EOF
		}
		return v, err
	}
}

// Images lists the store.
func (c *Client) Images(ctx context.Context) ([]ImageInfo, error) {
	return get[[]ImageInfo](ctx, c, "/v1/images")
}

// Image looks one image up: a name, a digest, or a path which is imported.
func (c *Client) Image(ctx context.Context, ref string) (*ImageInfo, error) {
	return get[*ImageInfo](ctx, c, "/v1/image?ref="+url.QueryEscape(ref))
}

// Import takes an archive or layout into the store, and tells how far it has
// come; tell may be nil.
func (c *Client) Import(ctx context.Context, r ImportRequest, tell func(ImageProgress)) (*ImageInfo, error) {
	return c.image(ctx, "/v1/images", r, tell)
}

// Load is Import of all images of an archive or layout. The error is of the whole: what became of each image is in the
// result. It is not repeated after an upgrade of the daemon: that would find names taken by itself.
func (c *Client) Load(ctx context.Context, r LoadRequest, tell func(ImageProgress)) (*LoadResult, error) {
	last, err := c.follow(ctx, "/v1/images/load", r, tell)
	if IsUpgrading(err) {
		err = fmt.Errorf("%w: the images that were loaded before are there, and the daemon's log has the names that "+
			"lost others; load it again", err)
	}
	if err == nil && last.Loaded == nil {
		err = errors.New("the daemon's answer cannot be read: it has no result")
	}
	return last.Loaded, err
}

// Pull is Import from a registry.
func (c *Client) Pull(ctx context.Context, r PullRequest, tell func(ImageProgress)) (*ImageInfo, error) {
	return c.image(ctx, "/v1/images/pull", r, tell)
}

func (c *Client) image(ctx context.Context, path string, r any, tell func(ImageProgress)) (*ImageInfo, error) {
	last, err := again(ctx, func() (ImageProgress, error) { return c.follow(ctx, path, r, tell) })
	if err == nil && last.Image == nil {
		err = errors.New("the daemon's answer cannot be read: it has no image")
	}
	return last.Image, err
}

// follow returns the last line of what gets images.
func (c *Client) follow(ctx context.Context, path string, r any, tell func(ImageProgress)) (last ImageProgress,
	err error) {
	resp, err := c.do(ctx, http.MethodPost, path, r)
	if err != nil {
		return last, err
	}
	defer resp.Body.Close()
	next := lines[ImageProgress](resp.Body)
	for {
		p, err := next()
		switch {
		case err != nil:
			return last, brokenOff(err)
		case p.Error != nil:
			return last, p.Error
		case p.Image != nil || p.Loaded != nil:
			return p, nil
		case tell != nil:
			tell(p)
		}
	}
}

// Trace tells what a task's processes do until the trace ends, and how that was. An error of tell ends it.
func (c *Client) Trace(ctx context.Context, id string, spec TraceSpec, tell func(TraceEvent) error) (*TraceEnd, error) {
	resp, err := c.do(ctx, http.MethodPost, taskPath(id)+"/trace", spec)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	next := lines[TraceEvent](resp.Body)
	for {
		e, err := next()
		switch {
		case err != nil:
			return nil, brokenOff(err)
		case e.Error != nil:
			return nil, e.Error
		case e.End != nil:
			return e.End, nil
		}
		if err := tell(e); err != nil {
			return nil, err
		}
	}
}

// RemoveImage forgets an image's name; gc frees its blobs.
func (c *Client) RemoveImage(ctx context.Context, ref string) error {
	_, err := c.Untag(ctx, ref)
	return err
}

// Untag is RemoveImage that tells what went: by a digest all names of the image go.
func (c *Client) Untag(ctx context.Context, ref string) (*Untagged, error) {
	return call[*Untagged](ctx, c, http.MethodDelete, "/v1/image?ref="+url.QueryEscape(ref), nil)
}

// Tag gives an image of the store another name, and takes that from the image which had it.
func (c *Client) Tag(ctx context.Context, r TagRequest) (*ImageInfo, error) {
	return call[*ImageInfo](ctx, c, http.MethodPost, "/v1/images/tag", r)
}

// DiskUse measures what the daemon has on the disk.
func (c *Client) DiskUse(ctx context.Context) (*DiskUse, error) {
	return get[*DiskUse](ctx, c, "/v1/df")
}

// OnlyImages has DiskUse measure images alone.
const OnlyImages = "images"

// ImageUse measures the images that the daemon has on the disk.
func (c *Client) ImageUse(ctx context.Context) (*DiskUse, error) {
	return get[*DiskUse](ctx, c, "/v1/df?only="+OnlyImages)
}

// GC removes what no task and no image needs any more.
func (c *Client) GC(ctx context.Context, r GCRequest) (*GCResult, error) {
	return call[*GCResult](ctx, c, http.MethodPost, "/v1/gc", r)
}

// CheckPolicy asks what the policy says of a task without starting it.
func (c *Client) CheckPolicy(ctx context.Context, spec TaskSpec) (*Decision, error) {
	return call[*Decision](ctx, c, http.MethodPost, "/v1/policy/check", spec)
}

// CheckTrace is CheckPolicy with the decision about a user of the host who would trace the task.
func (c *Client) CheckTrace(ctx context.Context, spec TaskSpec, tracer string) (*Decision, error) {
	return call[*Decision](ctx, c, http.MethodPost, "/v1/policy/check?trace="+url.QueryEscape(tracer), spec)
}

// Approve records an override for the digest that the image has now.
func (c *Client) Approve(ctx context.Context, r ApproveRequest) (*Approval, error) {
	return call[*Approval](ctx, c, http.MethodPost, "/v1/policy/approvals", r)
}

// Approvals lists all overrides.
func (c *Client) Approvals(ctx context.Context) ([]Approval, error) {
	return get[[]Approval](ctx, c, "/v1/policy/approvals")
}

// Revoke withdraws an override by its id, or all of a digest (or of an image's
// digest), and returns what it was. Tasks run on; their owners are told.
func (c *Client) Revoke(ctx context.Context, ref, why string) ([]Approval, error) {
	q := url.Values{"ref": {ref}, "why": {why}}
	return call[[]Approval](ctx, c, http.MethodDelete, "/v1/policy/approvals?"+q.Encode(), nil)
}

// ApprovalLog tells everything that was ever approved and revoked.
func (c *Client) ApprovalLog(ctx context.Context) ([]ApprovalRecord, error) {
	return get[[]ApprovalRecord](ctx, c, "/v1/policy/log")
}

// Explain tells what a jail of an image would see of the host's /dev, and why.
func (c *Client) Explain(ctx context.Context, ref string) (*DevfsView, error) {
	return get[*DevfsView](ctx, c, "/v1/devfs/explain?ref="+url.QueryEscape(ref))
}

// Metrics copies the daemon's metrics, in Prometheus' text format.
func (c *Client) Metrics(ctx context.Context, w io.Writer) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/metrics", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, fromDaemon{resp.Body})
	return err
}

// Rulesets lists the devfs rulesets of the registry.
func (c *Client) Rulesets(ctx context.Context) ([]Ruleset, error) {
	return get[[]Ruleset](ctx, c, "/v1/devfs")
}

// Networks lists the networks that tasks of the host can have.
func (c *Client) Networks(ctx context.Context) ([]NetworkStatus, error) {
	return get[[]NetworkStatus](ctx, c, "/v1/networks")
}

// Doctor examines the host.
func (c *Client) Doctor(ctx context.Context) ([]Check, error) {
	return get[[]Check](ctx, c, "/v1/doctor")
}

// Reload reads the policy file again, and the lists of revocations; a faulty file leaves the old in force.
func (c *Client) Reload(ctx context.Context) (Reloaded, error) {
	return call[Reloaded](ctx, c, http.MethodPost, "/v1/reload", nil)
}

// UpgradeCommand has the daemon take the whole of its host's file.
const UpgradeCommand = "freejail daemon --upgrade"

// Upgrade makes the daemon exec its binary's file again, in place, and returns
// when the new one answers, or an error when none does.
func (c *Client) Upgrade(ctx context.Context, r UpgradeRequest) (*Info, error) {
	before, err := c.Info(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := call[any](ctx, c, http.MethodPost, "/v1/upgrade", r); err != nil {
		return nil, err
	}
	return c.awaitNext(ctx, before)
}

// goneTime is how long an upgraded daemon may refuse connections: the socket is handed
// on to it, so only one that has ended refuses any, until whoever watches it starts another.
var goneTime = 15 * time.Second

// awaitNext returns when another daemon than the one before answers and has recovered.
func (c *Client) awaitNext(ctx context.Context, before *Info) (*Info, error) {
	seen := time.Now()
	for {
		c.http.CloseIdleConnections()
		info, err := c.Info(ctx)
		if err == nil && info.Generation != before.Generation && info.Recovering == "" {
			return info, nil
		}
		if !errors.Is(err, ErrNoDaemon) {
			seen = time.Now()
		} else if time.Since(seen) > goneTime {
			return nil, fmt.Errorf("the daemon ended in the upgrade, and the tasks run without one; "+
				"its log has the reason: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the upgraded daemon does not answer: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Shutdown ends all tasks as a shutdown of the host does, and returns when they
// have ended. The daemon goes on, but starts no task before it is started again.
func (c *Client) Shutdown(ctx context.Context, r ShutdownRequest) (*ShutdownResult, error) {
	return call[*ShutdownResult](ctx, c, http.MethodPost, "/v1/shutdown", r)
}

func taskPath(id string) string { return "/v1/tasks/" + url.PathEscape(id) }

func hasCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	return call[T](ctx, c, http.MethodGet, path, nil)
}

func call[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	resp, err := c.do(ctx, method, path, in)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if _, nothing := any(&out).(*any); nothing && resp.StatusCode == http.StatusNoContent {
		return out, nil
	}
	err = json.NewDecoder(io.LimitReader(fromDaemon{resp.Body}, maxAnswer)).Decode(&out)
	// Callers of what has no error go on with it.
	if v := reflect.ValueOf(&out).Elem(); err == nil && v.Kind() == reflect.Pointer && v.IsNil() {
		err = errors.New("it is null")
	}
	if err != nil {
		return out, fmt.Errorf("%s %s: the daemon's answer cannot be read: %w", method, path, err)
	}
	return out, nil
}

// do waits for a daemon that is recovering as long as ctx lets it.
func (c *Client) do(ctx context.Context, method, path string, in any) (*http.Response, error) {
	for {
		resp, err := c.once(ctx, method, path, in)
		if !c.isRecovering(ctx, err) {
			return resp, err
		}
	}
}

// isRecovering returns when it is time for another try. The daemon itself waits
// before it says so.
func (c *Client) isRecovering(ctx context.Context, err error) bool {
	if !hasCode(err, CodeRecovering) || ctx.Err() != nil {
		return false
	}
	if c.Waiting != nil {
		c.Waiting(err.Error())
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(50 * time.Millisecond):
		return true
	}
}

func (c *Client) once(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://freejail"+path, body)
	if err != nil {
		return nil, err
	}
	spans.Send(ctx, req.Header)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.noDaemon(err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	return resp, nil
}

func (c *Client) noDaemon(err error) error {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" {
		return brokenOff(err)
	}
	why := fmt.Sprint(op.Err)
	switch {
	case errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%w: the socket %s is root's, and of the group that socket_group in the host configuration "+
			"names: run this as root, or join that group", ErrDenied, c.socket)
	case errors.Is(err, syscall.ENOENT):
		why = "there is no such socket"
	case errors.Is(err, syscall.ECONNREFUSED):
		why = "the socket is there, but its daemon has ended"
	}
	return fmt.Errorf("%w on %s: %s; start it with `%s`", ErrNoDaemon, c.socket, why, startCommand(DefaultConfig))
}

// DefaultConfig is where a host's configuration is by default. The daemon reads it where it is told to.
const DefaultConfig = "/usr/local/etc/freejail.hcl"

// startCommand starts a daemon, with the configuration if there is one.
func startCommand(config string) string {
	if _, err := os.Stat(config); err != nil {
		return "freejail daemon"
	}
	return "freejail daemon --config " + config
}

func readError(resp *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	e := &Error{}
	if json.Unmarshal(b, e) != nil || e.Message == "" {
		if resp.StatusCode == http.StatusNotFound { // of net/http, for a path without a route
			return fmt.Errorf("%w and has no %s: `freejail upgrade` replaces it", ErrOlder, resp.Request.URL.Path)
		}
		return Errorf(CodeInternal, "the daemon answered %s: %s", resp.Status, bytes.TrimSpace(b))
	}
	return e
}
