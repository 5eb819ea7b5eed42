# What backup.nomad.hcl has stored comes back to the volume. Stop the job caddy before.
#
#   nomad job run -var image=caddy:1 -var archive=caddy-20261128-033000.tar example/caddy/restore.nomad.hcl
variable "image" {
  type = string
}

variable "archive" {
  type        = string
  default     = "caddy.tar"
  description = "a file of the volume caddy-backup"
}

job "caddy-restore" {
  datacenters = ["*"]
  type        = "batch"

  group "restore" {
    volume "data" {
      type   = "host"
      source = "caddy"
    }

    volume "backup" {
      type      = "host"
      source    = "caddy-backup"
      read_only = true
    }

    # What fails is for its operator to see.
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "restore" {
      driver = "freejail"

      config {
        image   = var.image
        command = "storage"
        args    = ["import", "--config", "/etc/caddy/Caddyfile", "--input", "/backup/${var.archive}"]
        ports   = []
        services {
          disabled = true
        }
      }

      volume_mount {
        volume      = "data"
        destination = "/data"
      }

      volume_mount {
        volume      = "backup"
        destination = "/backup"
        read_only   = true
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }
  }
}
