# A backup's pages, brought back into the volume. The user 80 can write to it.
#
#   nomad job run example/nginx/restore.nomad.hcl
#   nomad job dispatch -meta backup=20270131T034500Z nginx-restore
variable "image" {
  type    = string
  default = "nginx"
}

job "nginx-restore" {
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

    volume "www" {
      type   = "host"
      source = "www"
    }
    volume "backup" {
      type      = "host"
      source    = "www-backup"
      read_only = true
    }

    task "restore" {
      driver = "freejail"

      config {
        image      = var.image
        entrypoint = ["/usr/local/libexec/nginx/restore"]
        args       = ["${NOMAD_META_backup}"]
        ports      = []
      }

      volume_mount {
        volume      = "www"
        destination = "/www"
      }
      volume_mount {
        volume      = "backup"
        destination = "/backup"
        read_only   = true
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
