package driver

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/drivers/proto"

	"github.com/freejail/freejail/daemon/client"
)

// daemonWith runs the daemon of FREEJAIL_BIN with a configuration.
func daemonWith(t *testing.T, config string) *client.Client {
	t.Helper()
	bin := os.Getenv("FREEJAIL_BIN")
	if bin == "" || os.Geteuid() != 0 {
		t.Skip("it needs root, and the daemon's program in FREEJAIL_BIN")
	}
	dir, err := os.MkdirTemp("", "fj") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	conf := filepath.Join(dir, "freejail.hcl")
	text := fmt.Sprintf("state_dir = %q\nsocket = %q\n%s", filepath.Join(dir, "state"), filepath.Join(dir, "s"), config)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "daemon", "--config", conf)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		<-ended
	})
	c := client.New(filepath.Join(dir, "s"))
	for {
		if _, err := c.Info(t.Context()); err == nil {
			return c
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatal("the daemon ended: ", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// However an agent ends a task whose image is still being pulled, and when the
// agent itself ends, the start ends with it.
func TestKillOfAStartingTask(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // a registry that never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := daemonWith(t, fmt.Sprintf("registry %q {\n  plain_http = true\n}\n", l.Addr()))
	b, conn := startPlugin(t)
	var conf []byte
	if err := base.MsgPackEncode(&conf, map[string]any{"socket": c.Socket(), "autostart": false}); err != nil {
		t.Fatal(err)
	}
	if err := b.SetConfig(&base.Config{PluginConfig: conf,
		AgentConfig: &base.AgentConfig{Driver: &base.ClientDriverConfig{}}}); err != nil {
		t.Fatal(err)
	}
	d := proto.NewDriverClient(conn)
	for how, end := range map[string]func(id string, gone func()) error{
		"stop": func(id string, _ func()) error {
			_, err := d.StopTask(t.Context(), &proto.StopTaskRequest{TaskId: id, Signal: "SIGTERM"})
			return err
		},
		"destroy": func(id string, _ func()) error {
			_, err := d.DestroyTask(t.Context(), &proto.DestroyTaskRequest{TaskId: id, Force: true})
			return err
		},
		"gone": func(_ string, gone func()) error { gone(); return nil },
	} {
		t.Run(how, func(t *testing.T) {
			ctx, gone := context.WithCancel(t.Context())
			defer gone()
			id := "alloc/" + how + "/1"
			started := make(chan error, 1)
			go func() {
				_, err := d.StartTask(ctx,
					&proto.StartTaskRequest{Task: &proto.TaskConfig{Id: id, Name: how, AllocDir: "/a",
						MsgpackDriverConfig: taskConfig(t, map[string]any{"image": l.Addr().String() + "/prog:1"})}})
				started <- err
			}()
			for {
				if task, err := c.Task(t.Context(), daemonID(id)); err == nil && task.State == client.Starting {
					break
				}
			}
			if err := end(id, gone); err != nil {
				t.Error(err)
			}
			if err := <-started; err == nil || how != "gone" &&
				!strings.Contains(err.Error(), "was stopped while it was starting") {
				t.Errorf("StartTask: %v", err)
			}
			for { // who is gone does not wait for it
				if _, err := c.Task(t.Context(), daemonID(id)); client.IsNotFound(err) {
					break
				}
			}
		})
	}
}
