"""The agent container's main process: an sshd of its own, as an ordinary user, that opens only the door."""

import os
import shutil
from pathlib import Path

_CONFIG = """\
Port {port}
HostKey {run}/host
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PubkeyAuthentication yes
AuthorizedKeysFile {run}/operator {movers}
AllowTcpForwarding no
AllowAgentForwarding no
X11Forwarding no
PermitTunnel no
PermitUserRC no
PermitUserEnvironment no
PrintMotd no
UseDNS no
MaxSessions 50
MaxStartups 100:30:200
LoginGraceTime 20
ClientAliveInterval 10
ClientAliveCountMax 3
Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com
LogLevel INFO
"""


def start(root: Path, run: Path, port: int, host_key: Path, operator_key: Path, door: str) -> None:
    """Replaces this process. Keys come from a mounted Secret, whose modes sshd would not accept: they are copied."""
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    for source, target in ((host_key, run / "host"),):
        target.unlink(missing_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(source.read_bytes())
    (run / "operator").write_text(f'restrict,command="{door} door operator" {operator_key.read_text().strip()}\n')
    config = run / "sshd_config"
    config.write_text(_CONFIG.format(port=port, run=run, movers=root / "authorized_keys"))
    binary = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin:/bin") or "/usr/sbin/sshd"
    os.execv(binary, [binary, "-D", "-e", "-f", str(config)])  # noqa: S606 - becomes the container's main process
