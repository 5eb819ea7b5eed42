# A copy of Caddy's volume each night, made by Caddy itself: certificates, keys and accounts in one archive.
#
#   nomad job run -var image=caddy:1 example/caddy/backup.nomad.hcl
#   nomad job periodic force caddy-backup    # one at once
variable "image" {
  type = string
}

job "caddy-backup" {
  datacenters = ["*"]
  type        = "batch"

  periodic {
    crons            = ["30 3 * * *"]
    prohibit_overlap = true
  }

  group "backup" {
    volume "data" {
      type   = "host"
      source = "caddy"
    }

    volume "backup" {
      type   = "host"
      source = "caddy-backup"
    }

    task "backup" {
      driver = "freejail"

      config {
        image   = var.image
        command = "storage"
        args    = ["export", "--config", "/etc/caddy/Caddyfile", "--output", "/backup/${AT}.tar"]
        ports   = []
        services {
          disabled = true
        }
      }

      template {
        data        = "AT={{ timestamp \"20060102T150405Z\" }}\n"
        destination = "local/at"
        env         = true
        change_mode = "noop"
      }

      volume_mount {
        volume      = "data"
        destination = "/data"
      }

      volume_mount {
        volume      = "backup"
        destination = "/backup"
      }

      resources {
        cpu    = 100
        memory = 128
      }
    }
  }
}
