"""What setup.cfg cannot declare: the compiled stream, and an sdist that holds its tests and all that they look at.

The stream is optional: without a compiler, without greenlet's headers or without both Cython and the C file that the
sdist holds, gws installs all the same and `gws/stream.py` serves.
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
WHOLE = (".ci/*", "*.md", "*.ini", "*.toml", "tests/**/*", "examples/**/*", "docs/**/*")  # for the sdist
MADE = {"__pycache__", "node_modules", "_build"}  # in these folders, and not ours


class Sdist(sdist):
    """An sdist from whose folder the tests run."""

    def make_distribution(self):
        """Make it of all that there is."""
        self.filelist.extend(whole())
        self.filelist.sort()
        self.filelist.remove_duplicates()
        super().make_distribution()


def whole():
    """Return the paths of all files that belong to WHOLE, from here."""
    found = {path.relative_to(HERE) for pattern in WHOLE for path in HERE.glob(pattern) if path.is_file()}
    return sorted(str(path) for path in found if not MADE & set(path.parts))


def extensions():
    """Return the compiled stream, if there is something to build it from."""
    try:
        import greenlet
    except ImportError:
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        source = "gws/_stream.c"
        cythonize = list
    else:
        source = "gws/_stream.pyx"
    if not (HERE / source).exists():
        return []
    stream = Extension(
        "gws._stream",
        [source],
        include_dirs=[str(Path(greenlet.__file__).parent.parent)],
        extra_compile_args=["-O3"],
    )
    made = cythonize([stream])
    for extension in made:
        extension.optional = True  # (cythonize() would have forgotten it)
    return made


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"sdist": Sdist})
