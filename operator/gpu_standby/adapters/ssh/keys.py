"""Key pairs, made and read in memory: no file, no agent, no ssh-keygen."""

import asyncssh

from gpu_standby.errors import Refused
from gpu_standby.ports import KeyPair


def generate_key(comment: str) -> KeyPair:
    key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    return KeyPair(key.export_private_key("openssh").decode(), key.export_public_key("openssh").decode().strip())


def public_half(private_key: str) -> str:
    """The public line of a private key that a user brought. Refused when it is none, or needs a passphrase."""
    try:
        key = asyncssh.import_private_key(private_key)
    except asyncssh.KeyEncryptionError:
        raise Refused("the private key is protected by a passphrase") from None
    except asyncssh.KeyImportError:
        raise Refused("this is no private SSH key") from None
    return key.export_public_key("openssh").decode().strip()
