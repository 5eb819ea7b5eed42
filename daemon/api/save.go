package api

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/freejail/freejail/daemon/client"
	"github.com/freejail/freejail/daemon/task"
	"github.com/freejail/freejail/daemon/works"
	"github.com/freejail/freejail/internal/places"
)

// saves are those under way: each keeps its images from a collection.
var saves = places.Places{Most: 8}

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
	p := peerOf(r)
	release, err := saves.Take(p.uid, !p.operator)
	if err != nil {
		return client.Unavailable("save: %v: try again when one has ended", err)
	}
	defer release()
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
