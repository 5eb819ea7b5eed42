# For Nomad's client: the directories that jobs mount by these names. All belong to the user of the image.
#
#   install -d -o 770 -g 770 -m 700 /srv/postgresql /srv/postgresql-backup
client {
  host_volume "postgresql" {
    path = "/srv/postgresql"
  }

  # Best on another host than the server's.
  host_volume "postgresql-backup" {
    path = "/srv/postgresql-backup"
  }

  # For a second server, when moving to another major version.
  # host_volume "postgresql-new" {
  #   path = "/srv/postgresql-new"
  # }

  # A server writes a checkpoint before it ends: the job's kill_timeout. Nomad's own bound is 30 seconds.
  max_kill_timeout = "2m"
}
