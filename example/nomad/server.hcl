# A Nomad server: one alone here, three or five in production.
#
#   nomad agent -config example/nomad/server.hcl -config example/nomad/client.hcl
data_dir  = "/var/db/nomad"
bind_addr = "127.0.0.1"  # in production an address that the clients reach; then without the block below

# Nomad takes no loopback address for its own unless it is told so.
advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}

server {
  enabled          = true
  bootstrap_expect = 1
}
