# Two groups of the web server of example/web, as many tasks as their load needs: one by freejail's metrics, one by
# Nomad's own. docs/nomad.md#scaling has what each number is.
#
#   freejail images import build/images/web.tar
#   nomad job run example/autoscale/scaled.nomad.hcl
job "scaled" {
  datacenters = ["*"]

  group "web" {
    scaling {
      min = 1
      max = 4

      policy {
        cooldown            = "20s"
        evaluation_interval = "5s"

        check "cpu" {
          source = "prometheus"
          # Percent of a processor, of each task.
          query = "100 * avg(sum by (task) (rate(freejail_task_cpu_seconds_total{job=\"scaled\",group=\"web\"}[30s])))"

          strategy "target-value" {
            target = 20
          }
        }
      }
    }

    network {
      port "http" {}
    }

    task "web" {
      driver = "freejail"

      config {
        image = "web"
        parameters = {
          GREETING = "Good day"
        }
        # Others find out that a task is leaving before it ends.
        services {
          shutdown_delay = "2s"
        }
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }

  group "admin" {
    scaling {
      min = 1
      max = 4

      policy {
        cooldown            = "20s"
        evaluation_interval = "5s"

        check "cpu" {
          source = "nomad-apm"
          query  = "avg_cpu-allocated" # percent of resources { cpu }

          strategy "target-value" {
            target = 80
          }
        }

        check "memory" {
          source = "nomad-apm"
          query  = "avg_memory-allocated" # percent of resources { memory }

          strategy "target-value" {
            target = 80
          }
        }
      }
    }

    network {
      port "http" {}
    }

    task "web" {
      driver = "freejail"

      config {
        image = "web"
        parameters = {
          GREETING = "Good day"
        }
        services {
          shutdown_delay = "2s"
        }
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
