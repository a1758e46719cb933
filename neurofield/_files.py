"""Writing files so that a reader never meets half of one."""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def atomic_write(
    path: str | os.PathLike[str],
    content: bytes | str | Callable[[IO[bytes]], Any],
    *,
    overwrite: bool = False,
) -> Path:
    """Write a file whole or not at all, and return its path.

    `content` is bytes, text (written as UTF-8) or a function that writes to the binary file it
    is given. The file is written beside its target, synced to disk and renamed; if anything fails
    the target is as it was and nothing is left behind. Missing folders are made.

    Raises `FileExistsError` if the target exists and `overwrite` is false (also if it appears
    while the content is written), `OSError` with the system's number and reason if the disk is
    full or the folder cannot be written.
    """
    path = Path(path)
    # The file that a link points to is replaced, not the link.
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise FileExistsError(f"{path} is not a regular file: give the path of a file to write.")
    if target.exists() and not overwrite:
        raise FileExistsError(_exists_message(path))
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            if isinstance(content, str):
                content = content.encode()
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, target)
        else:
            _rename_new(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        if isinstance(error, FileExistsError) and target.exists():  # it appeared meanwhile
            raise FileExistsError(_exists_message(path)) from error
        raise OSError(
            error.errno,
            f"could not write {path}: {error.strerror or error}. Nothing was changed there; free "
            "some space or choose another folder",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    return path


def _exists_message(path: Path) -> str:
    return f"{path} exists already: choose another path or pass overwrite=True."


def _rename_new(temporary: Path, target: Path) -> None:
    """Rename, but fail if the target exists: a hard link does both in one step."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if target.exists():
            raise FileExistsError(str(target)) from None
        os.rename(temporary, target)


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
