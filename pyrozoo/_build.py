"""How setuptools builds the package: a wheel carries the data sets inside it, which a checkout keeps in ``data/``."""

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py

_DATA = Path("data")


class BuildWithData(build_py):
    """Copies ``data/`` to ``pyrozoo/_data``; a symbolic link in the checkout would not survive on Windows."""

    def run(self):
        """Build the package, then copy the data sets; an editable install reads them from the checkout."""
        super().run()
        if not self.editable_mode:
            for file in self._data_files():
                target = Path(self.build_lib, "pyrozoo", "_data", file.relative_to(_DATA))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)

    def get_source_files(self):
        """List what a source distribution holds, the data sets with it."""
        return [*super().get_source_files(), *map(str, self._data_files())]

    @staticmethod
    def _data_files():
        return sorted(file for file in _DATA.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
