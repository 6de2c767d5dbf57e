"""What runs on a GPU machine: POSIX shell, nothing installed. Arguments are quoted by the caller, never pasted in.

In `/var/tmp/gpu-standby`: `workload.pid` ("pid starttime mark": a recycled number is not taken for ours),
`workload.log`, `lock`, `nvidia-smi.pid` and one `probe.<name>` per held session.
"""

STATE_FOLDER = "/var/tmp/gpu-standby"  # noqa: S108 - survives a restart of the container, unlike /tmp on some images

_ENVIRONMENT = r"""
# The words of /etc/environment, before "$@": what a container was given, which sshd does not pass on.
with_environment() {
  if [ -r /etc/environment ]; then
    while IFS= read -r line || [ -n "$line" ]; do
      line=${line#export }
      name=${line%%=*} value=${line#*=}
      case $name in '' | [0-9]* | *[!A-Za-z0-9_]* | "$line" | PWD | OLDPWD | SHLVL | _) continue ;; esac
      case $value in \"*\" | \'*\') value=${value#?} value=${value%?} ;; esac
      set -- "$name=$value" "$@"
    done </etc/environment
  fi
  exec env $signals "$@"
}
signals=
"""

_PROCESSES = (
    f"folder={STATE_FOLDER}\n"
    + r"""
(umask 077; mkdir -p "$folder") 2>/dev/null
# Sets $state and $since (start time in ticks) of a process without starting another; fails if there is none.
look_at() {
  state='' since=''
  { read -r line <"/proc/${1:-none}/stat"; } 2>/dev/null || return 1
  set -- ${line##*) }
  state=$1 since=${20}
}
# Is it the process that started then, and no mere zombie?
alive() { look_at "${1:-}" && [ "$since" = "${2:-}" ] && [ "$state" != Z ] && [ "$state" != X ]; }
"""
)

PROBE = (
    _PROCESSES
    + r"""
mine=$folder/probe.$1 running=$folder/nvidia-smi.pid
out=$mine.out
health=unknown pid='' born='' began=0 next=0
sick='ERR!|Unknown Error|[Uu]nable to determine|fallen off|GPU is lost|[Rr]equires reset'
sick="$sick|"'(^|[^A-Za-z])(XID|Xid)([^A-Za-z]|$)'
# The loop of a session that was given up: its sshd may not have heard of that yet.
if [ -r "$mine" ] && read -r pid born <"$mine" && alive "$pid" "$born"; then kill -9 "$pid" 2>/dev/null; fi
look_at $$ && (echo "$$ $since" >"$mine") 2>/dev/null || out=/dev/null
trap 'alive "$pid" "$born" && kill -9 "$pid" 2>/dev/null; rm -f "$mine" "$mine.out"' EXIT
trap 'exit 0' HUP INT TERM PIPE
pid='' born=''
if ! command -v nvidia-smi >/dev/null 2>&1; then health=missing
elif [ -r "$running" ] && read -r pid born began <"$running" && alive "$pid" "$born"; then own=no
else pid=''
fi
check() {
  now=$(date +%s)
  if [ -n "$pid" ]; then
    if alive "$pid" "$born"; then
      [ $((now - began)) -lt 10 ] || health=hung
      return
    fi
    rm -f "$running"
    if [ "$own" = yes ]; then
      if ! wait "$pid"; then health=failed
      # Not the list of processes below: their names are anything.
      elif sed '/Processes:/,$d' "$out" |
        grep -qE "$sick"
      then health=failed
      else health=ok
      fi
      next=$((now + 10))
    fi
    pid=''
  fi
  if [ "$now" -ge "$next" ]; then
    nvidia-smi >"$out" 2>&1 </dev/null &
    pid=$! own=yes began=$now
    look_at "$pid" && born=$since
    (echo "$pid $born $began" >"$running") 2>/dev/null
  fi
}
while IFS= read -r nonce; do
  [ "$health" = missing ] || check
  printf '%s %s\n' "$nonce" "$health" || exit 0
done
"""
)
"""One nvidia-smi at a time, in the background, also over sessions: one that hangs is a reading, not a pile."""

_WORKLOAD = (
    _PROCESSES
    + r"""
[ -O "$folder" ] && [ -w "$folder" ] || { echo "$folder is not ours to write in" >&2; exit 1; }
log=$folder/workload.log
session='' born='' mark=''
[ ! -r "$folder/workload.pid" ] || read -r session born mark <"$folder/workload.pid"
running() { alive "$session" "$born"; }
# The living of the workload's session or process group: "pid group".
members() {
  [ -n "$session" ] || return 0
  # Its number is free for others only when no process has that session or group any more.
  ! look_at "$session" || [ "$since" = "$born" ] || return 0
  cat /proc/[0-9]*/stat 2>/dev/null | sed -n \
    -e "s/^\([0-9]*\) (.*) [^ZX] [0-9]* $session [0-9]* .*/\1 $session/p" -e t \
    -e "s/^\([0-9]*\) (.*) [^ZX] [0-9]* \([0-9]*\) $session .*/\1 \2/p"
}
# Those that left the session (a daemon, tmux): they still carry the mark of this start in their environment.
marked() {
  [ -n "$mark" ] || return 0
  limit=''
  ! command -v timeout >/dev/null 2>&1 || limit='timeout 5'
  $limit grep -lF "GPU_STANDBY_RUN=$mark" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3
}
# One start or stop at a time. An empty lock is one whose holder could not write (a full disk) or died before.
lock() {
  tries=0
  until (set -C; : >"$folder/lock") 2>/dev/null; do
    holder='' held=''
    { read -r holder held <"$folder/lock"; } 2>/dev/null
    if { [ -n "$holder" ] && ! alive "$holder" "$held"; } || { [ -z "$holder" ] && [ "$tries" -gt 10 ]; }; then
      mv "$folder/lock" "$folder/lock.$$" 2>/dev/null && rm -f "$folder/lock.$$"
      continue
    fi
    [ "$tries" -lt 100 ] || { echo "another start or stop is under way" >&2; exit 1; }
    sleep 0.1
    tries=$((tries + 1))
  done
  trap 'rm -f "$folder/lock"' EXIT
  trap 'exit 1' HUP INT TERM
  look_at $$ && (echo "$$ $since" >"$folder/lock") 2>/dev/null
  session='' born='' mark=''
  [ ! -r "$folder/workload.pid" ] || read -r session born mark <"$folder/workload.pid"
}
# TERM to each once, KILL after so many seconds; fails if somebody survives that. What a program starts in order
# to save itself must not be hit: who gets the TERM is listed before it.
end_all() {
  group=" $(members | sed -n "s/ $session\$//p" | tr '\n' ' ')"
  others=''
  for one in $(members | cut -d' ' -f1; marked); do
    case "$group $others " in *" $one "*) ;; *) others="$others $one" ;; esac
  done
  [ "$group" = " " ] || kill -TERM "-$session" 2>/dev/null
  [ -z "$others" ] || kill -TERM $others 2>/dev/null
  until_time=$(($(date +%s) + $1)) kill_until=0
  while :; do
    left=$(members | cut -d' ' -f1)
    [ -n "$left" ] || left=$(marked)
    [ -n "$left" ] || return 0
    now=$(date +%s)
    if [ "$kill_until" -gt 0 ] && [ "$now" -gt "$kill_until" ]; then
      echo "still there after KILL: $left" >&2
      return 1
    fi
    if [ "$now" -ge "$until_time" ]; then
      [ "$kill_until" -gt 0 ] || kill_until=$((now + 5))
      kill -KILL $left $(marked) 2>/dev/null
    fi
    sleep 0.1
  done
}
# In place: the workload appends, and keeps its open file.
trim_log() {
  size=$({ wc -c <"$log"; } 2>/dev/null) || return 0
  [ "$size" -gt 10000000 ] || return 0
  tail -c 1000000 "$log" >"$log.1"
  : >"$log"
}
"""
)

RUNNING = _WORKLOAD + "running && echo yes || echo no\ntrim_log\n"

START = (
    _WORKLOAD
    + _ENVIRONMENT
    + r"""
command=$1 workspace=$2 new_mark=$3
lock
running && exit 0
cd "$workspace" || exit 1
end_all 2 || exit 1
trim_log
rm -f "$folder/workload.pid"
before=$({ wc -c <"$log"; } 2>/dev/null) || before=0
if leader=$(command -v setsid); then set -- "$leader"
elif leader=$(command -v perl); then set -- "$leader" -MPOSIX -e 'POSIX::setsid(); exec @ARGV' --
elif leader=$(command -v python3); then
  set -- "$leader" -c 'import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])'
else echo "no setsid, perl or python3: the workload would not outlive this session" >&2; exit 1
fi
# A background job of a script ignores INT and QUIT, and so would everything it starts.
! env --default-signal=INT,QUIT true 2>/dev/null || signals=--default-signal=INT,QUIT
# In a subshell that becomes the leader: no shell of ours stays behind it and holds this session's output open.
(with_environment "GPU_STANDBY_RUN=$new_mark" "$@" /bin/sh -c '
  read -r line </proc/$$/stat
  set -- "$1" "$2" "$3" ${line##*) }
  echo "$$ ${23} $2" >"$1/.pid" && [ -s "$1/.pid" ] && mv "$1/.pid" "$1/workload.pid" || exit 1
  exec /bin/sh -c "$3"
' sh "$folder" "$new_mark" "$command") >>"$log" 2>&1 </dev/null &
child=$! tries=0
while [ ! -s "$folder/workload.pid" ] && kill -0 "$child" 2>/dev/null && [ "$tries" -lt 50 ]; do
  sleep 0.1
  tries=$((tries + 1))
done
sleep 0.3
[ ! -r "$folder/workload.pid" ] || read -r session born mark <"$folder/workload.pid"
running && exit 0
wait "$child"
echo "the start command ended at once, with $?:" >&2
tail -c "+$((before + 1))" "$log" | tail -n 5 >&2
exit 1
"""
)

STOP = (
    _WORKLOAD
    + r"""
lock
end_all "$1" || exit 1
rm -f "$folder/workload.pid"
"""
)

QUIESCE = (
    _ENVIRONMENT
    + r"""
command=$1 seconds=$2
set -- /bin/sh -c "$command"
! timeout -k 1 1 true 2>/dev/null || set -- timeout -k 1 "$seconds" "$@"
(with_environment "$@") </dev/null
status=$?
[ "$status" -ne 124 ] || echo "it did not end in $seconds s" >&2
exit "$status"
"""
)

AUTHORIZE = r"""
umask 077
mkdir -p ~/.ssh && touch ~/.ssh/authorized_keys || exit 1
[ -z "$(tail -c 1 ~/.ssh/authorized_keys)" ] || echo >>~/.ssh/authorized_keys
while IFS= read -r key; do
  set -- $key
  [ -n "${2:-}" ] || continue
  grep -v '^[[:space:]]*#' ~/.ssh/authorized_keys | grep -qF "$2" && continue
  printf '%s\n' "$key" >>~/.ssh/authorized_keys || exit 1
done
"""
