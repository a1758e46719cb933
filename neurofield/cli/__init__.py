"""The command line: `neurofield fit`, `neurofield doctor`, `neurofield info`."""

from ._app import main as main
