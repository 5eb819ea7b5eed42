# The web server of example/web twice on one host, each with a network stack of its own: both listen on 8080, Nomad
# chooses a port of the host for each, and Consul knows them there. The host needs the networks of
# example/host/networks.hcl.
#
#   freejail images import build/images/web.tar
#   nomad job run example/jobs/network.nomad.hcl
job "web-lan" {
  datacenters = ["*"]

  # Only nodes that have the network.
  constraint {
    attribute = "${attr.driver.freejail.network.lan}"
    value     = "nat"
  }

  group "web" {
    count = 2

    network {
      port "http" {
        to = 8080  # the program's; without it the image's own number
      }
    }

    task "web" {
      driver = "freejail"

      config {
        image   = "web"
        network = "lan"
        ports = {
          http = "http"
        }
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
