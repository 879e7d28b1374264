"""Which packages a YAML file may name: importing runs code, so this is decided by the name before the import."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import pathlib
import sys
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from composer_kd.errors import ConfigError

__all__ = ['PACKAGES', 'Trust', 'current', 'make_importable', 'packages_in', 'trusting']

PACKAGES = ('composer_kd', 'composer', 'torch', 'torchvision', 'transformers', 'timm')
"""Packages whose classes every YAML may name."""


def _working_folder() -> pathlib.Path | None:
    try:
        return pathlib.Path.cwd().resolve()
    except OSError:  # it was deleted
        return None


_STARTED_IN = _working_folder()  # a script may change the folder after it has imported its own modules


@dataclass(frozen=True)
class Trust:
    """The packages that the names in a file may come from.

    Args:
        allowed: Packages besides ``PACKAGES`` and the modules in the working folder.
        record: The folder of a saved run whose ``config.yaml`` is read. Somebody else may have sent it, so modules in
            it, and packages that contain it, do not count as modules of the working folder.
        remedy: How a package is allowed, with ``{package}`` for its name.
    """

    allowed: frozenset[str] = frozenset()
    record: pathlib.Path | None = None
    remedy: str = 'allow_imports: [{package}] in the YAML, or allow_imports=[{package}] on the command line'

    def require(self, path: str, package: str) -> None:
        """Checks that a package may be imported, without importing it.

        Args:
            path: The dotted path that leads to the package, for the message.
            package: The name of the package, without dots.

        Raises:
            ConfigError: If it may not.

        Example:
            >>> Trust().require('torch.nn.MSELoss', 'torch')
            >>> Trust(frozenset({'subprocess'})).require('subprocess.run', 'subprocess')
            Traceback (most recent call last):
            composer_kd.errors.ConfigError: 'subprocess.run' is not imported: 'subprocess' belongs to Python itself...
        """
        if package in PACKAGES and package in sys.modules:
            return
        home = _home(package)
        ours = home is not None and _is_in_working_folder(home)
        if (package in PACKAGES or ours) and (package in self.allowed or not self._is_of_record(home)):
            return
        if not ours and package in _STANDARD:
            raise ConfigError(f'{path!r} is not imported: {package!r} belongs to Python itself and has no such thing')
        if package in self.allowed:
            return
        if home is None and package not in sys.modules:
            raise ConfigError(f'no module named {package!r} can be imported')
        near = ', which lies with the run that names it' if ours else ''
        raise ConfigError(
            f'{path!r} is not imported, because that would run code of {package!r}{near}. If you trust it: '
            f'{self.remedy.format(package=package)}'
        )

    def vouches_for(self, package: str) -> bool:
        """Whether functions of a package are believed to return what they are named for: your own, or allowed ones.

        The packages that everybody may name also have functions that run code, such as ``torch.hub.load``.
        """
        return package in self.allowed or package not in PACKAGES

    def _is_of_record(self, home: pathlib.Path | None) -> bool:
        if self.record is None or home is None:
            return False
        folder = self.record.resolve()
        return home.is_relative_to(folder) or folder.is_relative_to(home)


_STANDARD = frozenset(sys.stdlib_module_names) | {'__main__', '__mp_main__'}
_current: ContextVar[Trust] = ContextVar('trust', default=Trust())  # noqa: B039  (it is frozen)


def current() -> Trust:
    """The trust that names are resolved with."""
    return _current.get()


@contextlib.contextmanager
def trusting(
    packages: Iterable[str] = (), record: pathlib.Path | None = None, remedy: str | None = None
) -> Iterator[Trust]:
    """Allows further packages while the names of a file are resolved.

    Args:
        packages: Packages to allow, besides those allowed already.
        record: As in :class:`Trust`.
        remedy: As in :class:`Trust`.

    Yields:
        The trust that is in force.

    Example:
        >>> with trusting(['sklearn']) as trust:
        ...     sorted(trust.allowed)
        ['sklearn']
    """
    outer = _current.get()
    inner = Trust(outer.allowed.union(packages), record if record is not None else outer.record, remedy or outer.remedy)
    token = _current.set(inner)
    try:
        yield inner
    finally:
        _current.reset(token)


def packages_in(written: object) -> list[str]:
    """Reads the value of ``allow_imports``; what is not a name is left to the check.

    Example:
        >>> packages_in(['sklearn', 3]), packages_in(None)
        (['sklearn'], [])
    """
    listed = written if isinstance(written, list) else [written]
    return [str(one) for one in listed if isinstance(one, str) and one.isidentifier()]


def _home(package: str) -> pathlib.Path | None:
    """The file of a module or the folder of a package, found without importing it."""
    try:
        loaded = sys.modules.get(package)
        spec = loaded.__spec__ if loaded is not None else _spec(package)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    places = [*(spec.submodule_search_locations or ()), *([spec.origin] if spec.has_location and spec.origin else [])]
    return pathlib.Path(places[0]).resolve() if places else None


def _spec(package: str) -> importlib.machinery.ModuleSpec | None:
    """Finds a module as Python would if the working folder came first; libraries are not looked for there."""
    ours = None
    if package not in PACKAGES:
        folders = [str(folder) for folder in _working_folders()]
        ours = importlib.machinery.PathFinder.find_spec(package, [*folders, *sys.path])
    return ours or importlib.util.find_spec(package)


def make_importable(package: str) -> None:
    """Puts the working folder on the path if a package lies there that a file may name.

    The command starts without it, unlike ``python -m``: in a folder that somebody sent, a ``yaml.py`` would take the
    place of a library.

    Args:
        package: The name of a package, without dots, after ``Trust.require``.
    """
    home = None if package in sys.modules or package in PACKAGES else _home(package)
    if home is not None and _is_in_working_folder(home) and str(home.parent) not in sys.path:
        sys.path.insert(0, str(home.parent))


def _working_folders() -> list[pathlib.Path]:
    return [folder for folder in dict.fromkeys((_working_folder(), _STARTED_IN)) if folder is not None]


def _is_in_working_folder(home: pathlib.Path) -> bool:
    return home.parent in _working_folders()
