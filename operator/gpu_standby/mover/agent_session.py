"""One SSH session to the standby's agent: JSON lines, one request at a time, with progress."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import asyncssh

from gpu_standby.errors import TargetDown

Json = dict[str, Any]
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 60.0
"""SSH's own keepalive notices a dead standby; this bounds nothing but the connection's."""


class AgentSession:
    def __init__(self, standby: Json, private_key: str) -> None:
        self.standby = standby
        self._key = private_key
        self._connection: asyncssh.SSHClientConnection | None = None
        self._process: asyncssh.SSHClientProcess[str] | None = None
        self._number = 0

    async def ask(self, request: Json, progress: Callable[[Json], None]) -> Json:
        """TargetDown when the standby is not there, or went away before it answered."""
        try:
            process = await self._open()
            self._number += 1
            process.stdin.write(json.dumps({"id": self._number, **request}) + "\n")
            async for line in process.stdout:
                answer: Json = json.loads(str(line))
                if answer.get("id") != self._number:
                    continue
                if "progress" not in answer:
                    return answer
                progress(answer["progress"])
        except (OSError, TimeoutError, ValueError, asyncssh.Error) as error:
            self.close()
            raise TargetDown(f"the standby: {type(error).__name__}: {error}"[:300]) from None
        self.close()
        raise TargetDown("the standby ended the session")

    async def _open(self) -> asyncssh.SSHClientProcess[str]:
        if self._process is not None:
            return self._process
        pinned = asyncssh.import_public_key(self.standby["hostKey"])
        async with asyncio.timeout(CONNECT_SECONDS):
            self._connection = await asyncssh.connect(
                self.standby["host"],
                int(self.standby["port"]),
                username=self.standby["user"],
                client_keys=[asyncssh.import_private_key(self._key)],
                known_hosts=([pinned], [], []),
                agent_path=None,
                config=None,
                client_version="gpu-standby",
                keepalive_interval=5,
                keepalive_count_max=3,
            )
            self._process = await self._connection.create_process("serve", stderr=asyncssh.DEVNULL)
        return self._process

    def close(self) -> None:
        if self._connection is not None:
            self._connection.abort()
        self._connection = self._process = None
