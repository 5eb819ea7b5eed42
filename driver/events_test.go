package driver

import (
	"os"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
	"golang.org/x/sys/unix"

	"github.com/freejail/freejail/daemon/client"
)

// step sets the host's clock.
func step(t *testing.T, by time.Duration) {
	t.Helper()
	tv := unix.NsecToTimeval(time.Now().Add(by).UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		t.Fatal(err)
	}
}

// An agent whose plugin began while the clock was ahead hears of its tasks after it
// was set right. The clock is the host's, so the host has to allow it by
// FREEJAIL_TEST_CLOCK; without, the same is tried with a clock that is right.
func TestEventsAfterTheClockWasSetBack(t *testing.T) {
	c := daemonWith(t, "")
	ahead := 24 * time.Hour
	if os.Getenv("FREEJAIL_TEST_CLOCK") == "" {
		ahead = 0
	}
	if ahead != 0 {
		step(t, ahead)
	}
	b, conn := startPlugin(t)
	var conf []byte
	if err := base.MsgPackEncode(&conf, map[string]any{"socket": c.Socket(), "autostart": false}); err != nil {
		t.Fatal(err)
	}
	if err := b.SetConfig(&base.Config{PluginConfig: conf,
		AgentConfig: &base.AgentConfig{Driver: &base.ClientDriverConfig{}}}); err != nil {
		t.Fatal(err)
	}
	stream, err := proto.NewDriverClient(conn).TaskEvents(t.Context(), &proto.TaskEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *proto.DriverTaskEvent, 100)
	go func() {
		defer close(got)
		for {
			e, err := stream.Recv()
			if err != nil {
				return
			}
			got <- e
		}
	}()
	time.Sleep(time.Second) // the plugin has asked the daemon by now
	if ahead != 0 {
		step(t, -ahead)
	}
	for tries := range 60 {
		_, err := c.Start(t.Context(), client.TaskSpec{ID: "event", Owner: "nomad", Image: "nothere",
			Labels: map[string]string{"nomad_task_id": "a/b/c"}})
		if err == nil {
			t.Fatal("an image that is not there was started")
		}
		select {
		case e := <-got:
			if e.GetTaskId() != "a/b/c" {
				t.Errorf("an event of %q", e.GetTaskId())
			}
			return
		case <-time.After(time.Second):
			t.Logf("no event after %d starts", tries+1)
		}
	}
	t.Error("the agent hears of nothing")
}
