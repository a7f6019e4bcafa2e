"""Public data sets from a pinned commit of their repository, checked before anything is made of them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from yolo_musgd.edge.errors import UserError


@dataclass(frozen=True)
class Archive:
    """Where a data set comes from.

    Attributes:
        repository: ``owner/name`` on GitHub.
        commit: full hash of the commit; a branch moves, a commit does not.
        used: folders and files of it that the data set is made of.
        digest: what :func:`digest` says of them; None checks nothing (a local sample, in tests).
    """

    repository: str
    commit: str
    used: tuple[str, ...]
    digest: str | None

    @property
    def url(self) -> str:
        """The archive of that commit; GitHub packs it on demand, so its own bytes may differ from day to day."""
        return f"https://github.com/{self.repository}/archive/{self.commit}.zip"

    @contextmanager
    def unpacked(self, url: str | None = None) -> Iterator[Path]:
        """Fetch and check; the top folder of the repository, which is removed when the block ends.

        Args:
            url: of the archive, if not GitHub's.

        Raises:
            UserError: the archive lacks something, or holds other files than the pinned commit.
        """
        from ultralytics.utils.downloads import safe_download

        with tempfile.TemporaryDirectory() as folder:
            safe_download(url or self.url, dir=Path(folder), unzip=True, delete=True, progress=True)
            tops = [p.parent for p in Path(folder).rglob(self.used[0])]
            if not tops:
                raise UserError(f"{url or self.url} has no {self.used[0]}: it is not the archive of {self.repository}")
            root = min(tops, key=lambda p: len(p.parts))
            found = digest(root, self.used)
            if self.digest is not None and found != self.digest:
                raise UserError(
                    f"{url or self.url} does not hold the files of commit {self.commit[:10]}: their digest is "
                    f"{found[:12]}..., expected {self.digest[:12]}...; nothing was made of them, try again later"
                )
            yield root


def digest(root: Path, used: tuple[str, ...]) -> str:
    """SHA-256 over the sorted lines ``<sha256 of the content>  <path>`` of files and folders below ``root``.

    It does not depend on how an archive was packed.
    """
    files: set[Path] = set()
    for name in used:
        entry = root / name
        files.update([entry] if entry.is_file() else (p for p in entry.rglob("*") if p.is_file()))
    lines = sorted(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(root).as_posix()}\n" for p in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
