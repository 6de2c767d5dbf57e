"""What runs on a GPU machine: POSIX shell, nothing installed. Arguments are quoted by the caller, never pasted in."""

STATE_FOLDER = "/var/tmp/gpu-standby"  # noqa: S108 - survives a reboot of the container, unlike /tmp on some images

PROBE = r"""
health=unknown pid= began=0 last=0
out=$(mktemp 2>/dev/null || echo "/tmp/.gpu-standby-probe.$$")
trap '[ -n "$pid" ] && kill -9 "$pid" 2>/dev/null; rm -f "$out"' EXIT
command -v nvidia-smi >/dev/null 2>&1 || health=missing
while IFS= read -r nonce; do
  if [ "$health" != missing ]; then
    now=$(date +%s)
    if [ -n "$pid" ]; then
      if kill -0 "$pid" 2>/dev/null; then
        [ $((now - began)) -lt 5 ] || health=hung
      else
        if ! wait "$pid"; then health=failed
        elif grep -qiE 'ERR!|unable to determine|has fallen off|xid' "$out"; then health=failed
        else health=ok; fi
        pid= last=$now
      fi
    elif [ $((now - last)) -ge 10 ]; then
      nvidia-smi >"$out" 2>&1 </dev/null &
      pid=$! began=$now
    fi
  fi
  printf '%s %s\n' "$nonce" "$health"
done
"""
"""One nvidia-smi at a time, in the background: one that hangs is a reading, not a pile."""

_COMMON = (
    r"""
folder="""
    + STATE_FOLDER
    + r"""
mkdir -p "$folder"
started_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
running() {
  [ -r "$folder/workload.pid" ] || return 1
  read -r pid since <"$folder/workload.pid"
  [ -n "$pid" ] && [ "$(started_at "$pid")" = "$since" ] &&
    ! sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | grep -q '^[ZX]'
}
members() {
  for stat in /proc/[0-9]*/stat; do
    set -- $(sed 's/.*) //' "$stat" 2>/dev/null)
    [ "${4:-}" = "$session" ] && [ "${1:-Z}" != Z ] && return 0
  done
  return 1
}
"""
)

RUNNING = _COMMON + "running && echo yes || echo no\n"

START = (
    _COMMON
    + r"""
command=$1 workspace=$2
running && exit 0
[ ! -r /etc/environment ] || while IFS= read -r line; do
  case $line in [A-Za-z_]*=*) export "$line" ;; esac
done </etc/environment
cd "$workspace" || exit 1
log=$folder/workload.log
[ "$(wc -c <"$log" 2>/dev/null || echo 0)" -lt 10000000 ] || mv "$log" "$log.1"
export GPU_STANDBY_FOLDER=$folder GPU_STANDBY_COMMAND=$command
if command -v setsid >/dev/null 2>&1; then new=setsid; else new=; set -m; fi
rm -f "$folder/workload.pid"
$new sh -c '
  since=$(sed "s/.*) //" "/proc/$$/stat" | cut -d" " -f20)
  pid=$GPU_STANDBY_FOLDER/.pid
  printf "%s %s\n" "$$" "$since" >"$pid" && mv "$pid" "$GPU_STANDBY_FOLDER/workload.pid"
  exec sh -c "$GPU_STANDBY_COMMAND"
' >>"$folder/workload.log" 2>&1 </dev/null &
tries=0
while [ ! -r "$folder/workload.pid" ] && [ "$tries" -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
sleep 0.2
running && exit 0
tail -n 5 "$folder/workload.log" >&2
exit 1
"""
)

STOP = (
    _COMMON
    + r"""
seconds=$1
[ -r "$folder/workload.pid" ] || exit 0
read -r session since <"$folder/workload.pid"
if running || members; then
  kill -TERM "-$session" 2>/dev/null || kill -TERM "$session" 2>/dev/null
  tries=0
  while members && [ "$tries" -lt $((seconds * 10)) ]; do sleep 0.1; tries=$((tries + 1)); done
  if members; then
    for stat in /proc/[0-9]*/stat; do
      set -- $(sed 's/.*) //' "$stat" 2>/dev/null)
      other=${stat#/proc/}
      [ "${4:-}" = "$session" ] && kill -KILL "${other%/stat}" 2>/dev/null
    done
    sleep 0.2
    members && exit 1
  fi
fi
rm -f "$folder/workload.pid"
exit 0
"""
)

AUTHORIZE = r"""
umask 077
mkdir -p ~/.ssh
touch ~/.ssh/authorized_keys
[ -z "$(tail -c 1 ~/.ssh/authorized_keys)" ] || echo >>~/.ssh/authorized_keys
while IFS= read -r key; do
  set -- $key
  grep -qF "$2" ~/.ssh/authorized_keys || printf '%s\n' "$key" >>~/.ssh/authorized_keys
done
"""
