# The image web, as example/jobs/web.nomad.hcl runs it, on a host that has never
# pulled it:
#
#   nomad job run example/nfs/web.nomad.hcl

job "web-nfs" {
  datacenters = ["*"]
  group "web" {
    network {
      port "http" {}
    }
    task "web" {
      driver = "freejail"
      config {
        image      = "web"  # web@sha256:... to pin the image
        root       = "nfs"
        ports      = { http = "http" }
        parameters = { GREETING = "Good day" }
      }
    }
  }
}
