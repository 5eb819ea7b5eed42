# A copy of all streams and consumers each night, taken over the network while the server or the cluster runs.
#
#   nomad var put -out none nomad/jobs/nats-backup token=...
#   nomad job run -var image=nats:1 example/nats/backup.nomad.hcl
#   nomad job periodic force nats-backup    # one at once
variable "image" {
  type = string
}

job "nats-backup" {
  datacenters = ["*"]
  type        = "batch"

  periodic {
    crons            = ["30 3 * * *"]
    prohibit_overlap = true
  }

  group "backup" {
    volume "backup" {
      type   = "host"
      source = "nats-backup"
    }

    task "backup" {
      driver = "freejail"

      config {
        image      = var.image
        entrypoint = ["/bin/nats"]
        command    = "backup"
        args       = ["account", "--force", "--check", "--critical-warnings", "/backup/${AT}"]
        ports      = []
        services {
          disabled = true
        }
      }

      template {
        data        = <<EOF
AT={{ timestamp "20060102T150405Z" }}
NATS_URL={{ range $i, $s := service "nats" }}{{ if $i }},{{ end }}nats://
{{- if .Address | regexMatch ":" }}[{{ .Address }}]{{ else }}{{ .Address }}{{ end }}:{{ .Port }}{{ end }}
NATS_TOKEN={{ with nomadVar "nomad/jobs/nats-backup" }}{{ .token }}{{ end }}
EOF
        destination = "secrets/env"
        env         = true
        change_mode = "noop"
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
