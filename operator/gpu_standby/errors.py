"""What can go wrong, sorted by what the caller must do. The text is for people and is never parsed.

GpuStandbyError
├── TargetDown         the machine asked did not answer: data for the verdict, never an answer to "is it gone?"
│   └── WrongHostKey   somebody else answered at its address: nothing was sent
├── CannotTell         our own side failed (API server, network, bad answer): never a reason to act
│   └── RateLimited    too fast: wait `retry_after_seconds`
├── MayHaveHappened    the request was sent and its answer lost: look before repeating
└── Refused            it was not done and repeating will not help
    ├── Conflict       a guarded write met a newer object: observe again, decide again
    ├── AgentRefused   the standby's door said no, with its `reason`
    ├── CommandFailed  a command ran and failed, with its exit status
    ├── AuthRejected   the key is not (or no longer) valid
    ├── OfferGone      somebody else rented it: take the next
    └── NoCredit       the account cannot pay
"""


class GpuStandbyError(Exception):
    """The root; never raised itself."""


class TargetDown(GpuStandbyError):
    pass


class WrongHostKey(TargetDown):
    def __init__(self, message: str, presented: str = "") -> None:
        super().__init__(message)
        self.presented = presented
        """The public key that was presented, as an OpenSSH line, if known."""


class CannotTell(GpuStandbyError):
    pass


class RateLimited(CannotTell):
    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class MayHaveHappened(GpuStandbyError):
    pass


class Refused(GpuStandbyError):
    def __init__(self, message: str, contract: int = 0) -> None:
        super().__init__(message)
        self.contract = contract
        """A machine that the refusal left behind all the same (Vast.ai does that): destroy it."""


class Conflict(Refused):
    pass


class AgentRefused(Refused):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}" if message else reason)
        self.reason = reason


class CommandFailed(Refused):
    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class AuthRejected(Refused):
    pass


class OfferGone(Refused):
    pass


class NoCredit(Refused):
    pass
