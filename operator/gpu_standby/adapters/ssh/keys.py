"""Key pairs, made in memory."""

import asyncssh

from gpu_standby.ports import KeyPair


def generate_key(comment: str) -> KeyPair:
    key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    return KeyPair(key.export_private_key("openssh").decode(), key.export_public_key("openssh").decode().strip())
