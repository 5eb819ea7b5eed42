# One NATS server with JetStream on a volume of the host. A new image takes the place of the old one: two servers must
# never have the same streams, so there is no canary. Nomad starts the new task when the old one has ended, and goes
# back to the image before if the new one is not healthy.
#
#   nomad var put -out none nomad/jobs/nats token=...
#   nomad job run -var image=nats:1 example/nats/nats.nomad.hcl
variable "image" {
  type        = string
  description = "a name of `freejail images`, or HOST/NAME@sha256:... of a registry"
}

job "nats" {
  datacenters = ["*"]

  update {
    max_parallel      = 1
    min_healthy_time  = "5s" # its checks pass for this time
    healthy_deadline  = "2m" # before this one is over; large streams take some time to recover
    progress_deadline = "0"  # the first task that fails ends the deployment, and Nomad goes back at once
    auto_revert       = true # to the version before
  }

  group "nats" {
    # Only the host that has the volume is chosen.
    volume "data" {
      type   = "host"
      source = "nats"
    }

    network {
      port "nats" {}
      port "monitor" {}
    }

    service {
      name = "nats"
      port = "nats"

      # Healthy is a server that has recovered all streams and consumers.
      check {
        type     = "http"
        port     = "monitor"
        path     = "/healthz"
        interval = "2s"
        timeout  = "1s"
      }
    }

    # Its data is here, so it is started here again, soon and for as long as it takes.
    restart {
      interval = "1m"
      attempts = 10
      delay    = "2s"
      mode     = "delay"
    }

    task "nats" {
      driver       = "freejail"
      kill_signal  = "SIGTERM" # at once, in good order: clients have no other server to go to
      kill_timeout = "30s"

      config {
        image = var.image
      }

      env {
        GOMEMLIMIT = "200MiB" # below the limit of the task, so that Go's collector works before the kernel does
      }

      template {
        data        = "NATS_TOKEN={{ with nomadVar \"nomad/jobs/nats\" }}{{ .token }}{{ end }}\n"
        destination = "secrets/env"
        env         = true
      }

      volume_mount {
        volume      = "data"
        destination = "/data"
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
