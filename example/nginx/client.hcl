# For Nomad's client: the directories that jobs mount by these names. Both belong to the user of the image.
#
#   install -d -o 80 -g 80 -m 755 /srv/www /srv/www-backup
client {
  host_volume "www" {
    path = "/srv/www"
  }

  host_volume "www-backup" {
    path = "/srv/www-backup"
  }
}
