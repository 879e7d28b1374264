"""Puts the YAMLs to start from into the package; what it is called and what it needs stands in pyproject.toml."""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = ('start', 'digits', 'cifar10', 'text', 'sweeps')  # as composer_kd.config.shipped.FOLDERS


class BuildWithYamls(build_py):
    """Copies the YAMLs beside the package into it; an editable install reads them where they are edited."""

    def run(self):
        """Builds the package, then adds the YAMLs."""
        super().run()
        if not self.editable_mode:
            for source, target in self._yamls():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode=True):
        """Lists the files that are built."""
        return [*super().get_outputs(include_bytecode), *(str(target) for _, target in self._yamls())]

    def _yamls(self):
        into = pathlib.Path(self.build_lib, 'composer_kd', 'yamls')
        files = [file for folder in FOLDERS for file in sorted(pathlib.Path('yamls', folder).glob('*.yaml'))]
        return [(file, into / file.parent.name / file.name) for file in files]


setup(cmdclass={'build_py': BuildWithYamls})
