# A Nomad client that runs jails.
data_dir   = "/var/db/nomad"
plugin_dir = "/usr/local/libexec/nomad/plugins"  # where `make install` puts freejail

client {
  enabled = true
  # The interface whose address tasks get: lo0 on FreeBSD, lo on Linux, or the
  # one that other hosts reach.
  # network_interface = "lo0"
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
