package api

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/daemon/works"
)

// maxSaves are under way at once: each keeps its images from a collection.
const maxSaves = 8

var saves = semaphore.NewWeighted(maxSaves)

// lastWords is how long a client has to take the last frame of a save that ends before its time.
const lastWords = time.Second

// save switches the connection to the stream of an archive of images.
func (b Backend) save(w http.ResponseWriter, r *http.Request) error {
	var in client.SaveRequest
	if err := decode(r, &in); err != nil {
		return err
	}
	connect, err := switched(w, r)
	if err != nil {
		return err
	}
	if !saves.TryAcquire(1) {
		return client.Unavailable("%d archives are being saved: try again when one is", maxSaves)
	}
	defer saves.Release(1)
	ctx, job, err := b.Works.Begin(r.Context())
	if err != nil {
		return err
	}
	defer job.End()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	rate := task.ClientRate
	late := func() {
		cancel(client.Unavailable("the archive is not whole: its reader took nothing for %s, or less than %d KiB a "+
			"second on the whole", rate.Pause, rate.Bytes>>10))
	}
	var conn net.Conn
	err = b.Images.Save(ctx, in, func() (io.Writer, func(string), error) {
		if conn, _, err = connect(); err != nil {
			return nil, nil, err
		}
		context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Now().Add(lastWords)) }) // or it is closed
		out := client.NewFrameWriter(rate.Waits(late).Writer(conn))
		note := func(text string) { _ = out.Write(client.Stderr, []byte(text)) } // who is gone is found out soon
		return out.Stream(client.Stdout), note, nil
	})
	if conn == nil {
		return err
	}
	defer conn.Close()
	kind, last := client.ExitFrame, any(client.Exit{Known: true, At: time.Now()})
	if err != nil {
		kind, last = client.FailFrame, client.AsError(works.Ended(ctx, err))
		b.Log.Debug("save", "error", err)
	}
	text, err := json.Marshal(last)
	if err == nil {
		err = client.NewFrameWriter(rate.Waits(late).Writer(conn)).Write(kind, text)
	}
	if err != nil { // nobody is there to be told
		b.Log.Debug("save", "error", err)
	}
	return nil
}
