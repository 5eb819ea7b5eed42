# The web server of example/web, deployed by its health. Nomad judges a deployment by the
# checks of service blocks, and by no others. So the job has one for the port, and freejail
# leaves the port to it: the image's own service is not registered beside it.
#
#   freejail images import build/images/web.tar
#   nomad job run example/jobs/deployment.nomad.hcl
#   nomad deployment status
job "deployment" {
  datacenters = ["*"]

  update {
    min_healthy_time  = "5s"   # its checks pass for this time
    healthy_deadline  = "30s"  # before this one is over, or the deployment fails
    progress_deadline = "1m"
    auto_revert       = true   # to the version before
  }

  group "web" {
    network {
      port "http" {}
    }

    service {
      name = "web"
      tags = ["example"]
      port = "http"

      check {
        type     = "http"
        path     = "/health"
        interval = "2s"
        timeout  = "1s"

        check_restart {
          limit = 5      # failures in a row: then the task is restarted
          grace = "10s"  # after its start
        }
      }
    }

    task "web" {
      driver = "freejail"

      config {
        image = "web"
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
