# A base backup of PostgreSQL each night, over the network, by a role that may do no more than that: complete, with all
# databases and roles. The volume is best on another host than the server's.
#
#   nomad var put -out none nomad/jobs/postgresql-backup password=...    # that of the role backup
#   nomad job run example/postgresql/backup.nomad.hcl
#   nomad job periodic force postgresql-backup                 # one now
variable "image" {
  type    = string
  default = "postgresql"
}

job "postgresql-backup" {
  datacenters = ["*"]
  type        = "batch"

  periodic {
    crons            = ["15 3 * * *"]
    prohibit_overlap = true
  }

  group "backup" {
    volume "backup" {
      type   = "host"
      source = "postgresql-backup"
    }

    task "backup" {
      driver = "freejail"

      config {
        image      = var.image
        entrypoint = ["/usr/local/libexec/postgresql/backup"]
        ports      = []
      }

      env {
        KEEP          = "7"
        PGREQUIREAUTH = "scram-sha-256" # PostgreSQL 16: nobody else gets the password
        PGPASSFILE    = "/secrets/pgpass"
      }

      volume_mount {
        volume      = "backup"
        destination = "/backup"
      }

      # Where the server is, by Consul.
      template {
        data        = <<-EOF
          {{ range service "postgresql" }}PGHOST={{ .Address }}
          PGPORT={{ .Port }}
          {{ end }}
        EOF
        destination = "local/server"
        env         = true
        change_mode = "noop"
      }
      template {
        data        = <<-EOF
          *:*:*:backup:{{ with nomadVar "nomad/jobs/postgresql-backup" -}}
          {{ .password.Value | replaceAll "\\" "\\\\" | replaceAll ":" "\\:" }}{{ end }}
        EOF
        destination = "secrets/pgpass"
        change_mode = "noop"
        perms       = "0400"
        uid         = 770
        gid         = 770
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
