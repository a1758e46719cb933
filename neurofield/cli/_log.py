"""Progress and notes for people: always on stderr, so that stdout holds the result alone."""

import contextlib
import dataclasses
import sys
import warnings
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Log:
    quiet: bool = False
    verbose: bool = False

    def step(self, message: str) -> None:
        """Progress; silenced by -q."""
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)

    def detail(self, message: str) -> None:
        """Progress that only -v shows."""
        if self.verbose:
            self.step(message)

    def note(self, message: str) -> None:
        """Something the user must know; -q does not silence it."""
        print(f"note: {message}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def noting(self, category: type[Warning]) -> Iterator[None]:
        """Show warnings of one kind as notes."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", category)
            yield
        for warning in caught:
            if issubclass(warning.category, category):
                self.note(str(warning.message))
            else:
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )
