"""gpu-standby: a rented GPU's work, kept alive by a cheap CPU standby."""

__version__ = "0.1.0"
