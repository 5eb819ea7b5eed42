# For Nomad's client: the directories that jobs mount by these names. All belong to the user of the image.
#
#   install -d -o 4222 -g 4222 -m 700 /srv/nats /srv/nats-backup
client {
  host_volume "nats" {
    path = "/srv/nats"
  }

  host_volume "nats-backup" {
    path = "/srv/nats-backup"
  }

  # For nats-cluster.nomad.hcl, on each of three hosts another one: nats[0], nats[1] and nats[2].
  # host_volume "nats[0]" {
  #   path = "/srv/nats"
  # }

  # A server of a cluster takes half a minute to send its clients elsewhere. Nomad's own bound is 30 seconds.
  max_kill_timeout = "1m"
}
