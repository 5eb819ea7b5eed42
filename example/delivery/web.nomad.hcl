# The web server of example/web, as deliver runs it: a new version gets one canary beside the two
# tasks that run, and waits for `deliver promote`. A version that is not healthy is ended: the one before it runs on.
variable "image" {
  type        = string
  description = "HOST/NAME@sha256:..., which deliver pushed"
}

job "web" {
  datacenters = ["*"]

  update {
    canary            = 1
    max_parallel      = 1
    min_healthy_time  = "5s"   # its checks pass for this time
    healthy_deadline  = "1m"   # before this one is over
    progress_deadline = "2m"   # of each task; a canary waits for its promotion for as long as it likes
    auto_revert       = true   # to the version before
  }

  group "web" {
    count = 2

    network {
      port "http" {}
    }

    shutdown_delay = "3s"  # gone from Consul for this time before it is told to end

    service {
      name        = "web"
      port        = "http"
      tags        = ["live"]
      canary_tags = ["canary"]

      check {
        type     = "http"
        path     = "/health"
        interval = "2s"
        timeout  = "1s"
      }
    }

    task "web" {
      driver = "freejail"

      config {
        image = var.image
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
