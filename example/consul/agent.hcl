# A Consul agent for one host:
#
#   consul agent -config-file example/consul/agent.hcl
data_dir         = "/var/db/consul"
bind_addr        = "127.0.0.1"
client_addr      = "127.0.0.1"
server           = true
bootstrap_expect = 1
