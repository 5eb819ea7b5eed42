# A backup's certificates, keys and accounts, brought back into the volume. Stop the job caddy before.
#
#   nomad job run -var image=caddy:1 example/caddy/restore.nomad.hcl
#   nomad job dispatch -meta backup=20270131T033000Z caddy-restore
variable "image" {
  type = string
}

job "caddy-restore" {
  datacenters = ["*"]
  type        = "batch"

  parameterized {
    meta_required = ["backup"]
    payload       = "forbidden"
  }

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
        args    = ["import", "--config", "/etc/caddy/Caddyfile", "--input", "/backup/${NOMAD_META_backup}.tar"]
        ports   = []
        parameters = {
          BACKUP = "${NOMAD_META_backup}" # the image refuses what is not a name of a backup
        }
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
