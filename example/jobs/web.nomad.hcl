# The web server of example/web. Its port is registered in Consul as the image's
# manifest says: no service block is needed.
#
#   freejail images import build/images/web.tar
#   nomad job run example/jobs/web.nomad.hcl
job "web" {
  datacenters = ["*"]

  group "web" {
    network {
      port "http" {}  # any free port; freejail tells it to the program
    }

    task "web" {
      driver = "freejail"

      config {
        image = "web"

        # The manifest's port, and the port of the network block above.
        ports = {
          http = "http"
        }

        parameters = {
          GREETING = "Good day"
        }
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
