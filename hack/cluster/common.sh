# Paths that the scripts of this folder share; sourced, never run.
# shellcheck shell=bash disable=SC2034

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${GPU_STANDBY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/gpu-standby}
state=${GPU_STANDBY_CLUSTER_STATE:-$cache/cluster}

# The binaries are those of these lock files and of this script: another lock, another folder.
lock=$(cat "$here"/tools/*/go.mod "$here"/tools/*/go.sum "$here/build" | sha256sum | cut -c1-16)
bin=$cache/bin-$lock

# Addresses of the cluster's own network: a /30 to the host, one range for pods and one for Services.
netns=gpu-standby
link=gsp0
host_ip=10.123.0.1
node_ip=10.123.0.2
pod_range=10.124.0.0/16
service_range=10.125.0.0/16
dns_ip=10.125.0.10
node=gpu-standby

# The cgroups of the kubelet's pods, the inner ones first. Only at the top: a kubelet in a container has its own below.
pod_cgroups() {
  find /sys/fs/cgroup/kubepods /sys/fs/cgroup/*/kubepods -depth -type d 2>/dev/null
}

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
