package driver

import (
	"fmt"
	"os"
	"regexp"

	"github.com/hashicorp/nomad/plugins/drivers/proto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/freejail/freejail/daemon/client"
)

// What agents newer than the protocol of 1.6.3 have, by its numbers in driver.proto of
// Nomad 2.0.5. Their agents ask and tell nothing else that concerns a task.

// dynamicUsers is the field dynamic_workload_users of DriverCapabilities: the agent
// gives each task without a user one of its own.
var dynamicUsers = protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 1)

// selinuxLabel is the number of that field of Mount.
const selinuxLabel = 5

const service = "/hashicorp.nomad.plugins.drivers.proto.Driver/"

// newerCalls are those whose requests and answers are empty.
var newerCalls = map[string]func(*Driver) error{
	service + "Init": (*Driver).init,
	// Nothing ends with the plugin: tasks and their daemon live on.
	service + "Shutdown": func(*Driver) error { return nil },
}

// newerCall answers what the generated server does not know.
func (d *Driver) newerCall(_ any, s grpc.ServerStream) error {
	name, _ := grpc.MethodFromServerStream(s)
	call, is := newerCalls[name]
	if !is {
		return status.Errorf(codes.Unimplemented, "%s is not known here", name)
	}
	var empty emptypb.Empty
	if err := s.RecvMsg(&empty); err != nil {
		return err
	}
	if err := call(d); err != nil {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return s.SendMsg(&empty)
}

// init refuses a host on which no wait helps. An agent that is refused has no driver
// until it is started again, and takes the tasks that run for lost: whatever can be
// mended beside it, such as a daemon that is away, is told by the health instead.
func (d *Driver) init() error {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("freejail needs root, and the agent runs it as user %d: run the agent as root", uid)
	}
	return supported()
}

var nomadUser = regexp.MustCompile(`^nomad-([0-9]+)$`)

// agent has a task be as the configuration of its host's agent says.
func (c Config) agent(s *client.TaskSpec) {
	if c.NoLogs || !isThere(s.Stdout) && !isThere(s.Stderr) { // as with logs { disabled = true } in a job
		s.Stdout, s.Stderr = "", "" // the daemon keeps them
	}
	if m := nomadUser.FindStringSubmatch(s.User); m != nil && c.NomadUsers {
		s.User, s.DefaultUser = "", m[1]+":"+m[1]
	}
}

// isThere does not tell what is there: the daemon opens it, where it may.
func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// checkVolume refuses what a volume's mount is not made with.
func checkVolume(m *proto.Mount) error {
	if p := m.PropagationMode; p != "" && p != "private" {
		return fmt.Errorf("volume_mount %s: propagation_mode = %q is not supported: what is mounted below a volume "+
			`later is not seen in the task, nor the other way; use "private"`, m.TaskPath, p)
	}
	if label := stringField(m.XXX_unrecognized, selinuxLabel); label != "" {
		return fmt.Errorf("volume_mount %s: selinux_label = %q is not supported: remove it", m.TaskPath, label)
	}
	return nil
}

// stringField is the last value of a field in an encoded message; empty where it has none.
func stringField(b []byte, number protowire.Number) (value string) {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return value
		}
		b = b[size:]
		if n == number && kind == protowire.BytesType {
			if v, size := protowire.ConsumeString(b); size >= 0 {
				value = v
			}
		}
		if size = protowire.ConsumeFieldValue(n, kind, b); size < 0 {
			return value
		}
		b = b[size:]
	}
	return value
}
