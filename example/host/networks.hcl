# Networks of a host, besides what freejail.hcl explains; docs/networks.md has all keys. The blocks go into that file.
# /etc/pf.conf needs three lines, translations before rules, and the host forwards (sysrc gateway_enable=YES):
#
#   nat-anchor "freejail"
#   rdr-anchor "freejail"
#   anchor "freejail"
#
# `freejail doctor` tells what is missing.

# The usual one: tasks have addresses behind the host's, and ports of the host lead to them.
network "lan" {
  mode    = "nat"
  subnet4 = "10.88.0.0/22"
  subnet6 = "fd00:88::/64"
}

# For what others have built: its tasks reach each other by published ports alone, and nothing of the host.
network "dmz" {
  mode        = "nat"
  subnet4     = "10.89.0.0/24"
  isolate     = true
  host_access = []
  dns         = ["9.9.9.9"]
}

# Jobs that name no network have this one, instead of the host's own.
default_network = "lan"

permit {
  description = "the team's services"
  networks    = ["dmz", "host"]
  namespaces  = ["team"]
  publish     = ["*:8000-8999"]
}

deny {
  description = "the host's own addresses and services are not for images of others"
  images      = ["docker.io/**", "ghcr.io/**"]
  networks    = ["host"]
}

test "an image of the registry" {
  image     = "ghcr.io/acme/web:1"
  namespace = "team"
  from      = "job"
  allowed {
    networks = ["dmz", "none"]
    publish  = ["*:8080", "192.0.2.7:8443/tcp"]
  }
  refused {
    networks = ["host"]
    publish  = ["*:80"]
  }
}
