# What backup.nomad.hcl has stored comes back to a server, or a cluster, that runs and has none of these streams.
#
#   nomad var put -out none nomad/jobs/nats-restore token=...
#   nomad job run -var image=nats:1 example/nats/restore.nomad.hcl
#   nomad job dispatch -meta backup=20270131T033000Z nats-restore
variable "image" {
  type = string
}

job "nats-restore" {
  datacenters = ["*"]
  type        = "batch"

  parameterized {
    meta_required = ["backup"]
    payload       = "forbidden"
  }

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
        args       = ["restore", "account", "/backup/${NOMAD_META_backup}"]
        ports      = []
        parameters = {
          BACKUP = "${NOMAD_META_backup}" # the image refuses what is not a name of a backup
        }
        services {
          disabled = true
        }
      }

      template {
        data        = <<EOF
NATS_URL={{ range $i, $s := service "nats" }}{{ if $i }},{{ end }}nats://
{{- if .Address | regexMatch ":" }}[{{ .Address }}]{{ else }}{{ .Address }}{{ end }}:{{ .Port }}{{ end }}
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
