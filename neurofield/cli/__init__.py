"""The command line: `neurofield fit`, `simulate`, `info` and `doctor`."""

from ._app import main as main
