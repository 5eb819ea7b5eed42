# What backup.nomad.hcl has stored comes back to a server, or a cluster, that runs and has none of these streams.
#
#   nomad var put nomad/jobs/nats-restore token=...
#   nomad job run -var image=nats:1 -var backup=20261128-033000 example/nats/restore.nomad.hcl
variable "image" {
  type = string
}

variable "backup" {
  type        = string
  default     = "backup"
  description = "a directory of the volume nats-backup"
}

job "nats-restore" {
  datacenters = ["*"]
  type        = "batch"

  group "restore" {
    volume "backup" {
      type      = "host"
      source    = "nats-backup"
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
        image      = var.image
        entrypoint = ["/bin/nats"]
        command    = "backup"
        args       = ["restore", "account", "/backup/${var.backup}"]
        ports      = []
        services {
          disabled = true
        }
      }

      template {
        data        = <<EOF
NATS_URL={{ range $i, $s := service "nats" }}{{ if $i }},{{ end }}nats://{{ .Address }}:{{ .Port }}{{ end }}
NATS_TOKEN={{ with nomadVar "nomad/jobs/nats-restore" }}{{ .token }}{{ end }}
EOF
        destination = "secrets/env"
        env         = true
        change_mode = "noop"
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
