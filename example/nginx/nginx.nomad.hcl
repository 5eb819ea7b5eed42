# nginx twice, serving a host volume that it only reads. A new version of the image gets a canary beside the two, which
# serves too; `nomad deployment promote` brings it to all, without a failed request.
#
#   nomad job run example/nginx/nginx.nomad.hcl
#
# The volume is a directory of each host that has it, see client.hcl.
variable "image" {
  type    = string
  default = "nginx"
}

job "nginx" {
  datacenters = ["*"]

  update {
    canary            = 1
    max_parallel      = 1
    min_healthy_time  = "5s" # its checks pass for this time
    healthy_deadline  = "1m" # before this one is over
    progress_deadline = "2m"
    auto_revert       = true
  }

  group "nginx" {
    count = 2

    network {
      port "http" {}
    }

    volume "www" {
      type      = "host"
      source    = "www"
      read_only = true
    }

    shutdown_delay = "3s" # gone from Consul for this time before it is told to end

    service {
      name        = "nginx"
      port        = "http"
      tags        = ["live"]
      canary_tags = ["canary"]

      check {
        type     = "http"
        path     = "/health"
        interval = "2s"
        timeout  = "1s"
      }
    }

    task "nginx" {
      driver       = "freejail"
      kill_timeout = "30s" # for requests that are served, after SIGQUIT of the image

      config {
        image = var.image
      }

      volume_mount {
        volume      = "www"
        destination = "/www"
        read_only   = true
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
