"""The command line: list, show, new, fit, predict, reproduce and check. Only the commands that compute import torch."""

from .main import main

__all__ = ["main"]
