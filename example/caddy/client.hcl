# For Nomad's client: the directories that jobs mount by these names. Both belong to the user of the image.
#
#   install -d -o 80 -g 80 -m 700 /srv/caddy /srv/caddy-backup
client {
  host_volume "caddy" {
    path = "/srv/caddy"
  }

  host_volume "caddy-backup" {
    path = "/srv/caddy-backup"
  }
}
