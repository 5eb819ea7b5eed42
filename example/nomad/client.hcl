# A Nomad client that runs jails. It starts as it is on any host, also without a network.
#
#   nomad agent -config example/nomad/server.hcl -config example/nomad/client.hcl
data_dir   = "/var/db/nomad"
plugin_dir = "/usr/local/libexec/nomad/plugins"  # where `make install` puts freejail

# One host alone. In production bind_addr is an address that the servers reach; then without advertise.
bind_addr = "127.0.0.1"
advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}

client {
  enabled = true

  # Tasks get the address of this interface: here the loopback's, lo0 on FreeBSD and lo on Linux. In production name
  # the one that other hosts reach; without the line it is that of the default route.
  network_interface = "{{ GetAllInterfaces | include \"flags\" \"loopback\" | limit 1 | attr \"name\" }}"

  # On a client without a server of its own:
  # servers = ["192.0.2.10"]
}

# Nomad 1.10 and newer run a plugin only where there is such a block.
plugin "freejail" {
  config {
    socket = "/var/run/freejail.sock"

    # Without a daemon on the socket the plugin starts one, with this configuration
    # and log. Where the rc.d script is installed, or a unit of systemd, that starts
    # it and the plugin does not.
    autostart = true
    config    = "/usr/local/etc/freejail.hcl"
    log_file  = "/var/log/freejail.log"

    # volumes and mount of jobs, within what the host's policy permits.
    volumes {
      enabled = true
    }
  }
}

consul {
  address = "127.0.0.1:8500"
}
