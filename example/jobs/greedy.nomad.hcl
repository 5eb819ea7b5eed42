# An image that requests more than example/host/freejail.hcl permits. Its task
# fails, with the command by which an operator can approve it; Nomad starts it
# again by itself, or at once with `nomad job eval -force-reschedule greedy`.
#
#   freejail images import build/images/greedy.tar
#   nomad job run example/jobs/greedy.nomad.hcl
job "greedy" {
  datacenters = ["*"]

  group "greedy" {
    task "greedy" {
      driver = "freejail"

      config {
        image = "greedy"
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
