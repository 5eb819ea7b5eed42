# Three NATS servers, each with a volume of its own: the one with the index 0 has `nats[0]`, on the host that offers it,
# whatever image it runs. They are replaced one after the other, the next when the one before has caught up; clients
# are sent to the others. Nomad has no canary for volumes of one task each (per_alloc).
#
#   nomad var put -out none nomad/jobs/nats-cluster token=...
#   nomad job run -var image=nats:1 example/nats/nats-cluster.nomad.hcl
variable "image" {
  type        = string
  description = "a name of `freejail images`, or HOST/NAME@sha256:... of a registry"
}

job "nats-cluster" {
  datacenters = ["*"]

  update {
    max_parallel      = 1
    min_healthy_time  = "10s"
    healthy_deadline  = "4m"
    progress_deadline = "5m"
    auto_revert       = true
  }

  group "nats" {
    count = 3

    volume "data" {
      type      = "host"
      source    = "nats"
      per_alloc = true
    }

    network {
      port "nats" {}
      port "monitor" {}
      port "route" {}
    }

    shutdown_delay = "2s"  # gone from Consul for this time before it is told to end

    service {
      name = "nats"
      port = "nats"

      # Healthy is a server that knows its cluster, and has all streams and consumers as the others have them.
      check {
        type     = "http"
        port     = "monitor"
        path     = "/healthz"
        interval = "2s"
        timeout  = "1s"
      }
    }

    service {
      name = "nats-route"
      port = "route"
    }

    # Its data is here, so it is started here again, soon and for as long as it takes.
    restart {
      interval = "1m"
      attempts = 10
      delay    = "2s"
      mode     = "delay"
    }

    task "nats" {
      driver       = "freejail"
      kill_signal  = "SIGUSR2"  # lame duck: leaders and clients go to the other servers, then it ends
      kill_timeout = "45s"      # longer than lame_duck_duration; the client's max_kill_timeout bounds it

      config {
        image   = var.image
        command = "-c"
        args    = ["/secrets/cluster.conf"]
        parameters = {
          NATS_NAME = "nats-${NOMAD_ALLOC_INDEX}"
        }
      }

      env {
        GOMEMLIMIT = "200MiB"
      }

      template {
        data        = "NATS_TOKEN={{ with nomadVar \"nomad/jobs/nats-cluster\" }}{{ .token }}{{ end }}\n"
        destination = "secrets/env"
        env         = true
      }

      # The servers find each other in Consul, healthy or not: none is before it has found another.
      template {
        data        = <<EOF
include "../etc/nats.conf"
lame_duck_duration: "30s"
lame_duck_grace_period: "5s"
cluster {
  name: nats
  host: $FREEJAIL_ADDR_route
  port: $FREEJAIL_PORT_route
  authorization {
    user: route
    password: $NATS_TOKEN
  }
  routes: [
{{- with nomadVar "nomad/jobs/nats-cluster" }}{{ $token := .token }}{{ range service "nats-route|any" }}
    "nats-route://route:{{ $token }}@
{{- if .Address | regexMatch ":" }}[{{ .Address }}]{{ else }}{{ .Address }}{{ end }}:{{ .Port }}"
{{- end }}{{ end }}
  ]
}
EOF
        destination   = "secrets/cluster.conf"
        change_mode   = "signal"
        change_signal = "SIGHUP"
      }

      volume_mount {
        volume      = "data"
        destination = "/data"
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
