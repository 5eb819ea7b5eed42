# PostgreSQL with its data on a host volume, in Consul when it takes connections. Its passwords are a variable of
# Nomad's: neither the image nor this file has them.
#
#   nomad var put -out none nomad/jobs/postgresql password=... backup=...
#   nomad job run example/postgresql/postgresql.nomad.hcl
#
# The volume is a directory of one host, see client.hcl.
variable "image" {
  type    = string
  default = "postgresql"
}

# For a second server: these, and a name of its own for the job.
variable "port" {
  type        = number
  default     = 5432
  description = "of the host; the policy has to permit it"
}

variable "volume" {
  type    = string
  default = "postgresql"
}

variable "service" {
  type    = string
  default = "postgresql"
}

job "postgresql" {
  datacenters = ["*"]

  # One server writes to a volume: the old version ends before the new one starts, and clients connect again. So there
  # is no canary. A version that does not become healthy is replaced by the one before it.
  update {
    min_healthy_time  = "5s"
    healthy_deadline  = "5m" # a server that crashed replays its log first
    progress_deadline = "0"  # the first task that fails ends the deployment, and Nomad goes back at once
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
      source = var.volume
    }

    service {
      name = var.service
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
      kill_timeout = "2m" # the client's max_kill_timeout, 30s by default, bounds it

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
        data        = "{{ with nomadVar (print \"nomad/jobs/\" (env \"NOMAD_JOB_ID\")) }}{{ .password }}{{ end }}"
        destination = "secrets/password"
        change_mode = "noop"
        perms       = "0400"
        uid         = 770
        gid         = 770
      }
      template {
        data        = "{{ with nomadVar (print \"nomad/jobs/\" (env \"NOMAD_JOB_ID\")) }}{{ .backup }}{{ end }}"
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
