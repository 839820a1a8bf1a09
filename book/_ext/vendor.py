"""Copy MathJax from the installed package to ``_build/vendor``, so that no page needs a network."""

import importlib.metadata
import sys
from pathlib import Path

from chapters import ROOT

from nnopt.storage import read_verified, write_atomic

__all__ = ["vendor"]

PACKAGE = "sphinx-mathjax-offline"
# MathJax 3.2.2, es5/tex-svg.js: one file, glyphs inside
SHA256 = "d4295dc33744836935c1399feece5159577b34c5c8ffb9f1c6324cd82e03a882"


def vendor(root: Path = ROOT) -> Path:
    """Copy the file unless it is there, and return where it is.

    Raises:
        FileNotFoundError: the package is missing or does not hold the file.
        ValueError: the file is another version.
    """
    target = root / "_build" / "vendor" / "mathjax" / "tex-svg.js"
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise FileNotFoundError(f"{PACKAGE} is not installed: the extra 'book' has it") from error
    sources = [Path(str(file.locate())) for file in files if file.name == "tex-svg.js"]
    if not sources:
        raise FileNotFoundError(f"{PACKAGE} does not hold tex-svg.js")
    content = read_verified(sources[0], digest=SHA256)
    if not target.is_file() or target.read_bytes() != content:
        write_atomic(target, content)
    return target


if __name__ == "__main__":
    vendor()
    sys.exit(0)
