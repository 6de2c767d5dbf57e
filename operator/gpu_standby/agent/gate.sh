#!/bin/sh
# Waits until the standby is the active side, then runs the workload as its child; ends it when it no longer is.
# gate/run exists while the workload shall run; gate/state says what it does.
: "${GATE_DIR:?}" "${STOP_SECONDS:=10}"
child=
backoff=1

tell() { printf '%s\n' "$*" >"$GATE_DIR/.state.$$" && mv -f "$GATE_DIR/.state.$$" "$GATE_DIR/state"; }

running() { [ -n "$child" ] && kill -0 "$child" 2>/dev/null; }

# The whole session of the workload, or, where there is no setsid, the workload alone.
signal_child() { kill "-$1" "-$child" 2>/dev/null || kill "-$1" "$child" 2>/dev/null; }

end_child() {
  [ -n "$child" ] || return 0
  signal_child TERM
  waited=0
  while left && [ "$waited" -lt $((STOP_SECONDS * 10)) ]; do
    sleep 0.1
    waited=$((waited + 1))
  done
  signal_child KILL
  wait "$child" 2>/dev/null
  child=
}

# Is anything of the workload alive? Its own process may have ended and not be waited for yet.
left() {
  for status in /proc/[0-9]*/stat; do
    fields=$(sed 's/.*) //' "$status" 2>/dev/null) || continue
    set -- $fields
    [ "${3:-}" = "$child" ] && [ "${1:-Z}" != Z ] && return 0
  done
  return 1
}

leave() {
  end_child
  tell stopped
  exit 0
}
trap leave TERM INT

# A session of its own for the child, so that all of it can be ended.
if command -v setsid >/dev/null 2>&1; then own=setsid; else own=; fi

while [ ! -d "$GATE_DIR" ]; do sleep 0.2; done
tell stopped
while :; do
  if [ -e "$GATE_DIR/run" ]; then
    if ! running; then
      if [ -n "$child" ]; then
        wait "$child"
        tell "failed $(cat "$GATE_DIR/run" 2>/dev/null) $?"
        child=
        sleep "$backoff"
        [ "$backoff" -ge 16 ] || backoff=$((backoff * 2))
        [ -e "$GATE_DIR/run" ] || continue
      fi
      $own "$@" </dev/null &
      child=$!
      tell "running $(cat "$GATE_DIR/run" 2>/dev/null) $child"
    fi
  elif [ -n "$child" ]; then
    end_child
    backoff=1
    tell stopped
  else
    case $(cat "$GATE_DIR/state" 2>/dev/null) in stopped*) ;; *) tell stopped ;; esac
  fi
  if [ -e "$GATE_DIR/quiesce" ]; then
    command=$(cat "$GATE_DIR/quiesce")
    rm -f "$GATE_DIR/quiesce"
    sh -c "$command" </dev/null
    printf '%s\n' "$?" >"$GATE_DIR/.quiesced" && mv -f "$GATE_DIR/.quiesced" "$GATE_DIR/quiesced"
  fi
  sleep 0.2
done
