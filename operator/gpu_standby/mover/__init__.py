"""The conductor inside the sync Job: asks the standby's agent for cycles and restores, reports, holds no data."""

from gpu_standby.mover.conductor import main

__all__ = ["main"]
