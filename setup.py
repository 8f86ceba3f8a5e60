"""What setup.cfg cannot declare: the compiled stream.

It is optional: without a compiler, without greenlet's headers or without both Cython and the C file that the sdist
holds, gws installs all the same and `gws/stream.py` serves.
"""

from pathlib import Path

from setuptools import Extension, setup

HERE = Path(__file__).parent


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


setup(ext_modules=extensions())
