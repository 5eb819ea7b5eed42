# Caddy with its certificates on a volume of the host. A new image gets one canary beside the two tasks that run, and
# waits for `nomad deployment promote`; one that is not healthy is ended, and what ran before runs on.
#
#   nomad job run -var image=caddy:1 -var count=1 example/caddy/caddy.nomad.hcl    # on an empty volume
#   nomad job run -var image=caddy:1 example/caddy/caddy.nomad.hcl
variable "image" {
  type        = string
  description = "a name of `freejail images`, or HOST/NAME@sha256:... of a registry"
}

variable "site" {
  type    = string
  default = "localhost"
}

variable "tls" {
  type        = string
  default     = "internal"
  description = "or your e-mail address, for certificates by ACME"
}

# On an empty volume 1 at first, so that one Caddy alone makes the authority of `tls = "internal"`.
variable "count" {
  type    = number
  default = 2
}

job "caddy" {
  datacenters = ["*"]

  update {
    canary            = 1
    max_parallel      = 1
    min_healthy_time  = "5s"  # its checks pass for this time
    healthy_deadline  = "1m"  # before this one is over
    progress_deadline = "2m"  # of each task; a canary waits for its promotion for as long as it likes
    auto_revert       = true  # to the version before
  }

  group "caddy" {
    count = var.count

    # Only hosts that have the volume are chosen. Tasks of one host share it: Caddy locks what it changes.
    volume "data" {
      type   = "host"
      source = "caddy"
    }

    # On a host that faces the world: `static = 80` and `static = 443` here, and a network of its own for the task,
    # docs/software.md. A host then has room for one task, and the canary needs a host more.
    network {
      port "http" {
        to = 8080
      }
      port "https" {
        to = 8443
      }
    }

    shutdown_delay = "3s"  # gone from Consul for this time before it is told to end

    service {
      name        = "caddy"
      port        = "https"
      tags        = ["live"]
      canary_tags = ["canary"]

      check {
        type     = "http"
        port     = "http"
        path     = "/healthz"
        interval = "2s"
        timeout  = "1s"
      }
    }

    # Where one ends by itself it is started again, soon and for as long as it takes.
    restart {
      interval = "1m"
      attempts = 10
      delay    = "2s"
      mode     = "delay"
    }

    task "caddy" {
      driver       = "freejail"
      kill_signal  = "SIGTERM"  # requests in progress are answered
      kill_timeout = "15s"      # longer than grace_period of the Caddyfile

      config {
        image = var.image
        parameters = {
          SITE = var.site
          TLS  = var.tls
        }
      }

      volume_mount {
        volume      = "data"
        destination = "/data"
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
