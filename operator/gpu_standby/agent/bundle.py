"""The agent as one file for a bare host (`python3 agent.pyz`), and its version: a hash of its content."""

import hashlib
import io
import zipfile
from functools import cache
from importlib.resources import files

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The same content makes the same bytes."""


def _sources() -> dict[str, bytes]:
    package = files("gpu_standby.agent")
    return {
        item.name: item.read_bytes()
        for item in sorted(package.iterdir(), key=lambda item: item.name)
        if item.name.endswith((".py", ".sh"))
    }


@cache
def version() -> str:
    digest = hashlib.sha256()
    for name, data in _sources().items():
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()[:16]


def archive() -> bytes:
    """A zip with a __main__: deterministic, standard library only."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        main = b"from gpu_standby.agent.__main__ import main\nraise SystemExit(main())\n"
        for name, data in {
            "__main__.py": main,
            "gpu_standby/__init__.py": b"",
            **{f"gpu_standby/agent/{name}": data for name, data in _sources().items()},
        }.items():
            packed.writestr(zipfile.ZipInfo(name, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
