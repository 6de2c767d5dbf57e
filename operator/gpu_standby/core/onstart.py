"""What a rented machine runs by itself when it starts: a script that holds no secret and cannot fail the boot."""

import shlex

LIMIT = 4048
"""Vast.ai's limit for onstart, in characters."""


def onstart(workspace: str) -> str:
    """Runs as root at every start, before or after sshd; each line may fail alone."""
    script = f"""#!/bin/sh
# gpu-standby: makes this machine ready to be restored. Idempotent, bounded, and never fails the boot.
touch "$HOME/.no_auto_tmux" /root/.no_auto_tmux 2>/dev/null
mkdir -p -- {shlex.quote(workspace)} /var/tmp/gpu-standby
# The container's environment is not there in an SSH session unless it is written down once.
grep -qs '^# gpu-standby$' /etc/environment || {{
  echo '# gpu-standby'
  env | grep -Ev '^(HOME|PWD|OLDPWD|SHLVL|TERM|_|CONTAINER_API_KEY|JUPYTER_TOKEN)=' | grep -E '^[A-Za-z_][A-Za-z0-9_]*='
}} >> /etc/environment 2>/dev/null
new_enough() {{
  rsync --version 2>/dev/null | sed -n '1s/.*version *v*\\([0-9]*\\)\\.\\([0-9]*\\).*/\\1 \\2/p' | {{
    read -r major minor && {{ [ "$major" -gt 3 ] || {{ [ "$major" -eq 3 ] && [ "$minor" -ge 2 ]; }}; }}
  }}
}}
if ! new_enough || ! command -v sshd >/dev/null 2>&1; then
  export DEBIAN_FRONTEND=noninteractive
  if command -v apt-get >/dev/null 2>&1; then
    timeout 120 apt-get update -qq
    timeout 120 apt-get install -qq -y --no-install-recommends rsync openssh-server
  elif command -v apk >/dev/null 2>&1; then
    timeout 120 apk add --no-cache rsync openssh
  elif command -v dnf >/dev/null 2>&1; then
    timeout 180 dnf install -y -q rsync openssh-server
  fi
fi >/var/tmp/gpu-standby/onstart.log 2>&1 </dev/null
true
"""
    if len(script) > LIMIT:
        raise ValueError(f"onstart is {len(script)} characters long, at most {LIMIT} are allowed")
    return script
