# Starting and ending the cluster's processes, each by its own id; sourced, never run.
# shellcheck shell=bash disable=SC2034,SC2154

run=$state/run
logs=$state/logs

# In the order of their start.
parts=(etcd apiserver controller-manager scheduler containerd kubelet proxy dns volumes)

# Nothing for one that has ended and only waits for its parent to notice.
started_at() { awk '$3 != "Z" {print $22}' "/proc/$1/stat" 2>/dev/null; }

# A recorded id counts only while the process that has it was started when it was recorded.
alive() {
  local pid since
  [ -f "$run/$1" ] || return 1
  read -r pid since <"$run/$1"
  [ "$(started_at "$pid")" = "$since" ]
}

# start NAME COMMAND…: in the cluster's network namespace, detached, its log in $logs/NAME.
start() {
  local name=$1
  shift
  alive "$name" && return 0
  setsid nsenter --net="/run/netns/$netns" "$@" >>"$logs/$name" 2>&1 </dev/null &
  local pid=$!
  printf '%s %s\n' "$pid" "$(started_at "$pid")" >"$run/$name"
}

stop() {
  local name pid since
  for name in "$@"; do
    alive "$name" && read -r pid since <"$run/$name" && kill "$pid" 2>/dev/null
  done
  for name in "$@"; do
    for _ in $(seq 150); do
      alive "$name" || break
      sleep 0.1
    done
    if alive "$name"; then
      read -r pid since <"$run/$name"
      kill -9 "$pid" 2>/dev/null || true
      while alive "$name"; do sleep 0.05; done
    fi
    rm -f "$run/$name"
  done
}

# put FILE: its new content comes on standard input. A file that says it already is not touched: kube-proxy ends
# itself when its configuration is written, and `up` may be called on a cluster at work.
put() {
  local content
  content=$(cat)
  [ "$content" = "$(cat "$1" 2>/dev/null)" ] || printf '%s\n' "$content" >"$1"
}

# await SECONDS WHAT COMMAND…: until the command succeeds.
await() {
  local limit=$1 what=$2
  shift 2
  for _ in $(seq $((limit * 10))); do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.1
  done
  die "$what did not happen within $limit s; logs: $logs"
}
