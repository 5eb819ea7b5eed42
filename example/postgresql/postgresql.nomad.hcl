# PostgreSQL with its data on a host volume, in Consul when it takes connections. Its passwords are a variable of
# Nomad's: neither the image nor this file has them.
#
#   nomad var put nomad/jobs/postgresql password=... backup=...
#   nomad job run example/postgresql/postgresql.nomad.hcl
#
# The volume is a directory of one host, of the user 770, in the configuration of that host's client:
#
#   client {
#     host_volume "postgresql" {
#       path = "/srv/postgresql"
#     }
#   }
variable "image" {
  type    = string
  default = "postgresql"
}

variable "port" {
  type    = number
  default = 5432
}

job "postgresql" {
  datacenters = ["*"]

  # One server writes to a volume: the old version ends before the new one starts, and clients connect again. So there
  # is no canary. A version that does not become healthy is replaced by the one before it.
  update {
    min_healthy_time  = "5s"
    healthy_deadline  = "5m"   # a server that crashed replays its log first
    progress_deadline = "10m"
    auto_revert       = true
  }

  group "postgresql" {
    network {
      port "postgresql" {
        static = var.port
      }
    }

    volume "data" {
      type   = "host"
      source = "postgresql"
    }

    service {
      name = "postgresql"
      port = "postgresql"

      check {
        type     = "script"
        task     = "postgresql"
        command  = "/usr/local/libexec/postgresql/ready"
        interval = "5s"
        timeout  = "4s"
      }
    }

    task "postgresql" {
      driver       = "freejail"
      kill_timeout = "2m"  # the client's max_kill_timeout, 30s by default, bounds it

      config {
        image = var.image
        args  = ["-c", "shared_buffers=128MB"]
      }

      volume_mount {
        volume      = "data"
        destination = "/data"
      }

      # Read where the volume is empty. Afterwards: ALTER ROLE.
      template {
        data        = "{{ with nomadVar \"nomad/jobs/postgresql\" }}{{ .password }}{{ end }}"
        destination = "secrets/password"
        change_mode = "noop"
        perms       = "0400"
        uid         = 770
        gid         = 770
      }
      template {
        data        = "{{ with nomadVar \"nomad/jobs/postgresql\" }}{{ .backup }}{{ end }}"
        destination = "secrets/backup"
        change_mode = "noop"
        perms       = "0400"
        uid         = 770
        gid         = 770
      }

      resources {
        cpu    = 500
        memory = 512
      }
    }
  }
}
