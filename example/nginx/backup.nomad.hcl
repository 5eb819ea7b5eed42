# The pages of nginx, packed each night. The user 80 can write to the volume of the backups.
#
#   nomad job run example/nginx/backup.nomad.hcl
#   nomad job periodic force nginx-backup    # one now
variable "image" {
  type    = string
  default = "nginx"
}

job "nginx-backup" {
  datacenters = ["*"]
  type        = "batch"

  periodic {
    crons            = ["45 3 * * *"]
    prohibit_overlap = true
  }

  group "backup" {
    volume "www" {
      type      = "host"
      source    = "www"
      read_only = true
    }
    volume "backup" {
      type   = "host"
      source = "www-backup"
    }

    task "backup" {
      driver = "freejail"

      config {
        image      = var.image
        entrypoint = ["/usr/local/libexec/nginx/backup"]
        ports      = []
      }

      env {
        KEEP = "7"
      }

      volume_mount {
        volume      = "www"
        destination = "/www"
        read_only   = true
      }
      volume_mount {
        volume      = "backup"
        destination = "/backup"
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
