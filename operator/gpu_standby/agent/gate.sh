#!/bin/sh
# Waits until the standby is the active side, then runs the workload as its child; ends it when it no longer is.
# gate/run exists while the workload shall run; gate/state says what it does; gate/quiesce holds a command to run
# beside it, once, and gate/quiesce.end ends that command early.
: "${GATE_DIR:?}" "${STOP_SECONDS:=10}"
child=
began=0
quiesce=
backoff=1
pause=0

tell() { printf '%s\n' "$*" >"$GATE_DIR/.state.$$" && mv -f "$GATE_DIR/.state.$$" "$GATE_DIR/state"; }

# The living processes of a session, and its first one, which may not have a session of its own (no setsid, or not yet).
members() {
  cat /proc/[0-9]*/stat 2>/dev/null |
    sed -n -e "s/^\([0-9]*\) (.*) [^ZX] [0-9]* [0-9]* $1 .*/\1/p" -e t -e "s/^$1 (.*) [^ZX] .*/$1/p"
}

kill_session() {
  while found=$(members "$1") && [ -n "$found" ]; do
    # Not quoted: one word per process.
    kill -KILL $found 2>/dev/null
    sleep 0.1
  done
  wait "$1" 2>/dev/null
}

end_child() {
  [ -n "$child" ] || return 0
  kill -TERM "-$child" 2>/dev/null || kill -TERM "$child" 2>/dev/null
  waited=0
  while [ "$waited" -lt $((STOP_SECONDS * 10)) ] && [ -n "$(members "$child")" ]; do
    sleep 0.1
    waited=$((waited + 1))
  done
  kill_session "$child"
  child=
}

leave() {
  end_child
  [ -z "$quiesce" ] || kill_session "$quiesce"
  tell stopped
  exit 0
}
trap leave TERM INT

start() {
  $own "$@" </dev/null &
  child=$!
  began=$(date +%s)
  tell "running $(cat "$GATE_DIR/run" 2>/dev/null) $child"
}

# The command ended by itself: what it left behind is ended too, and it is started again after a while.
ended() {
  wait "$child"
  code=$?
  tell "failed $(cat "$GATE_DIR/run" 2>/dev/null) $code"
  [ $(($(date +%s) - began)) -lt 60 ] || backoff=1
  end_child
  pause=$((backoff * 5))
  [ "$backoff" -ge 16 ] || backoff=$((backoff * 2))
}

quiesced() {
  wait "$quiesce"
  printf '%s\n' "$?" >"$GATE_DIR/.quiesced" && mv -f "$GATE_DIR/.quiesced" "$GATE_DIR/quiesced"
  quiesce=
}

# A session of its own for each child, so that all of it can be ended.
if command -v setsid >/dev/null 2>&1; then own=setsid; else own=; fi

while [ ! -d "$GATE_DIR" ]; do sleep 0.2; done
tell stopped
while :; do
  if [ ! -e "$GATE_DIR/run" ]; then
    end_child
    backoff=1
    pause=0
    case $(cat "$GATE_DIR/state" 2>/dev/null) in stopped*) ;; *) tell stopped ;; esac
  elif [ -n "$child" ]; then
    kill -0 "$child" 2>/dev/null || ended
  elif [ "$pause" -gt 0 ]; then
    pause=$((pause - 1))
  else
    start "$@"
  fi
  if [ -n "$quiesce" ]; then
    if ! kill -0 "$quiesce" 2>/dev/null; then
      quiesced
    elif [ -e "$GATE_DIR/quiesce.end" ] || [ -e "$GATE_DIR/quiesce" ]; then
      kill_session "$quiesce"
      quiesce=
    fi
  elif [ -e "$GATE_DIR/quiesce" ]; then
    command=$(cat "$GATE_DIR/quiesce")
    rm -f "$GATE_DIR/quiesce" "$GATE_DIR/quiesce.end"
    $own sh -c "$command" </dev/null &
    quiesce=$!
  fi
  sleep 0.2
done
