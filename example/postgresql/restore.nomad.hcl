# A server from a backup, on a volume without one:
#
#   nomad job stop postgresql
#   nomad job run example/postgresql/restore.nomad.hcl
#   nomad job dispatch -meta backup=20270131T031500Z postgresql-restore
#   nomad job run example/postgresql/postgresql.nomad.hcl
variable "image" {
  type    = string
  default = "postgresql"
}

job "postgresql-restore" {
  datacenters = ["*"]
  type        = "batch"

  parameterized {
    meta_required = ["backup"]
    payload       = "forbidden"
  }

  group "restore" {
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }

    volume "data" {
      type   = "host"
      source = "postgresql"
    }
    volume "backup" {
      type      = "host"
      source    = "postgresql-backup"
      read_only = true
    }

    task "restore" {
      driver = "freejail"

      config {
        image      = var.image
        entrypoint = ["/usr/local/libexec/postgresql/restore"]
        args       = ["${NOMAD_META_backup}"]
        ports      = []
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
        cpu    = 500
        memory = 256
      }
    }
  }
}
