package testagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"

	"github.com/hashicorp/consul/api"
)

// Consul is an agent in dev mode, which forgets all when it ends. It has its
// address before it is started, and keeps it.
type Consul struct {
	*Agent // nil before it is started
	Addr   string
	LAN    string // where others join it
	Client *api.Client

	// Prepare is called with the command before it is run, where it is set.
	Prepare func(*exec.Cmd)

	log, bin string
	args     []string
}

// NewConsul prepares the agent of a program, with a file for its log. More
// arguments come before those that keep it on the loopback.
func NewConsul(bin, log string, more ...string) (*Consul, error) {
	ports, err := Addresses(3)
	if err != nil {
		return nil, err
	}
	c := &Consul{Addr: ports[0].String(), LAN: ports[1].String(), log: log, bin: bin}
	c.args = append(append([]string{"agent", "-dev", "-node=freejail"}, more...), "-bind=127.0.0.1",
		"-client=127.0.0.1", "-log-level=warn",
		arg("http", ports[0]), arg("serf-lan", ports[1]), arg("server", ports[2]),
		"-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-serf-wan-port=-1")
	c.Client, err = api.NewClient(&api.Config{Address: c.Addr})
	return c, err
}

func arg(name string, a net.TCPAddr) string { return fmt.Sprintf("-%s-port=%d", name, a.Port) }

// Joining prepares a client of the agent's cluster, with a directory for its data and a file for its log.
func (c *Consul) Joining(node, dir, log string) (*Consul, error) {
	return NewConsul(c.bin, log, "-server=false", "-node="+node, "-data-dir="+dir, "-retry-join="+c.LAN)
}

// Start returns when the agent has a leader: itself, or that of the cluster which it joined.
func (c *Consul) Start(ctx context.Context) (err error) {
	cmd := exec.Command(c.bin, c.args...)
	if c.Prepare != nil {
		c.Prepare(cmd)
	}
	if c.Agent, err = Run(cmd, c.log); err != nil {
		return err
	}
	return c.Up(ctx, "Consul to answer", func() error {
		leader, err := c.Client.Status().Leader()
		if err == nil && leader == "" {
			err = errors.New("no leader")
		}
		return err
	})
}
