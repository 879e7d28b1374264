"""Reads a YAML of stages: several runs in order, of which later ones may be taught by earlier ones."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from composer_kd.config.check import findings
from composer_kd.config.load import default_run_name
from composer_kd.config.schema import PeerConfig, RunConfig, SourceConfig, TeacherConfig, local_folder
from composer_kd.config.shipped import located
from composer_kd.config.stage_teachers import PREVIOUS, StageTeacherConfig, after, with_teachers
from composer_kd.config.stored import stored_teachers
from composer_kd.config.trust import packages_in, trusting
from composer_kd.config.yaml_file import read_mapping
from composer_kd.config.yaml_source import (
    OF_STAGE,
    STAGES,
    UNRESOLVED,
    Source,
    compose,
    faults_said,
    read_settings,
)
from composer_kd.errors import ConfigError, nearest

__all__ = ['Chain', 'Stage', 'has_stages', 'load_chain']

OF_CHAIN = ('run_name', 'save_folder', 'autoresume', 'save_overwrite')
MOST = 100  # generations of a stage


@dataclass(frozen=True)
class Stage:
    """One run of a chain.

    Args:
        name: Its name: that of the stage, with the number of the generation if there are several.
        config: Its settings, in which the teachers that are stages have a model and a checkpoint.
        taught_by: The earlier runs that teach it: for the dotted key of each such teacher, the run's name.
    """

    name: str
    config: RunConfig
    taught_by: dict[str, str]

    @property
    def folder(self) -> pathlib.Path:
        """Its run folder, below that of the chain."""
        assert self.config.folder is not None
        return self.config.folder

    @property
    def latest(self) -> pathlib.Path:
        """The link to its latest checkpoint, in its folder."""
        return self.folder / self.config.latest_name


@dataclass(frozen=True)
class Chain:
    """Several runs that are trained in order.

    Args:
        name: The name of the chain.
        folder: Its folder, below which each stage has its own.
        stages: The runs in order.
        ensembles: For each repeated stage whose generations are evaluated together, the names of these.
        starts_anew: Whether what lies in the folder is replaced (``save_overwrite``).
    """

    name: str
    folder: pathlib.Path
    stages: tuple[Stage, ...]
    ensembles: dict[str, tuple[str, ...]]
    starts_anew: bool = False

    def __getitem__(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)


def has_stages(path: str | pathlib.Path) -> bool:
    """Whether a YAML describes several runs.

    Raises:
        ConfigError: If the file does not exist, or is not a YAML mapping.

    Example:
        >>> has_stages('yamls/digits/assistant.yaml'), has_stages('yamls/digits/kd.yaml')
        (True, False)
    """
    return STAGES in read_mapping(located(path))


def load_chain(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> Chain:
    """Reads and checks a YAML of stages, without building anything.

    Args:
        path: The YAML file: the settings of a run, which all stages share, and ``stages:``, a mapping from the name of
            each to the settings in which it differs, with dots as in overrides; ``yaml: FILE`` takes the settings of
            another file instead of the shared ones, ``generations: N`` repeats the stage.
        overrides: ``key.sub=value`` for all stages, ``stages.NAME.key.sub=value`` for one.

    Returns:
        The chain. Generation ``i`` has the seed ``seed + i``, since each starts from weights of its own (arXiv
        1805.04770).

    Raises:
        ConfigError: If there are faults; lists all of them, of all stages.

    Example:
        >>> chain = load_chain('yamls/digits/born_again.yaml')
        >>> [(stage.name, *stage.taught_by.values()) for stage in chain.stages][:3]
        [('teacher',), ('student-1', 'teacher'), ('student-2', 'student-1')]
        >>> chain.ensembles
        {'student': ('student-1', 'student-2', 'student-3')}
    """
    reader = _Reader(located(path), overrides)
    chain = reader.read()
    if reader.faults or chain is None:
        raise faults_said(reader.path, list(dict.fromkeys(reader.faults)))
    return chain


class _Reader:
    """Reads the stages one after the other, and collects the faults of all."""

    def __init__(self, path: pathlib.Path, overrides: Sequence[str]) -> None:
        self.path = path
        self.shared = read_mapping(path)
        self.written = self.shared.pop(STAGES, None)
        self.faults: list[str] = []
        self.own: dict[str, list[str]] = {}  # overrides of single stages
        self.common: list[str] = []
        self.chain_overrides: list[str] = []
        self.taken: set[str] = set()  # overrides of all stages that one of them has taken
        for override in overrides:
            self._sort(override)
        self.folder = pathlib.Path()
        self.name = ''
        self.stages: list[Stage] = []
        self.last: dict[str, str] = {}  # for each name that a teacher may have, the run that is meant
        self.read_names: list[str] = []  # of the stages whose settings are checked
        self.found: dict[str, list[str]] = {}  # for each fault, the stages that have it

    def _sort(self, override: str) -> None:
        key = override.partition('=')[0].strip().lstrip('-')
        head, _, rest = key.partition('.')
        if head != STAGES:
            (self.chain_overrides if head in OF_CHAIN else self.common).append(override)
            return
        name, _, below = rest.partition('.')
        names = list(self.written) if isinstance(self.written, dict) else []
        if name in names and below:
            self.own.setdefault(name, []).append(f'{below}={override.partition("=")[2]}')
        else:
            self.faults.append(f'{override!r}: expected stages.NAME.key=value{nearest(name, names)}')

    def read(self) -> Chain | None:
        if not isinstance(self.written, dict) or not self.written:
            self.faults.append(
                f'stages: expected a mapping from the name of each stage to its settings, got {self.written!r}'
            )
            return None
        starts_anew = self._read_own_settings()
        ensembles = {}
        for name, settings in self.written.items():
            members, together = self._stage(name, settings)
            if together and len(members) > 1:
                ensembles[name] = tuple(members)
        self._report_shared()
        self.faults += [f'{one!r}: every stage leaves that out' for one in self.common if one not in self.taken]
        if all(isinstance(one, dict) and 'yaml' in one for one in self.written.values()):
            idle = [key for key in self.shared if key not in OF_CHAIN]
            self.faults += [f'{key}: no stage takes it, because each has a yaml of its own' for key in idle]
        return Chain(self.name, self.folder, tuple(self.stages), ensembles, starts_anew)

    def _read_own_settings(self) -> bool:
        """Reads what the chain as a whole is called, and where it is saved."""
        source = compose(self.path, self.shared, {}, [*self.common, *self.chain_overrides])
        own = {key: source.data[key] for key in OF_CHAIN if key in source.data}
        self.faults += [fault for fault in source.faults if fault.lstrip("'").split('=')[0].split(':')[0] in OF_CHAIN]
        name, place = own.get('run_name'), own.get('save_folder', RunConfig.save_folder)
        if not isinstance(name, str) and name not in (None, UNRESOLVED):
            self.faults.append(f'run_name: expected a string or null, got {name!r}')
        self.name = default_run_name(self.path) if name in (None, UNRESOLVED) else str(name)
        folder = local_folder(place, self.name) if isinstance(place, str) else None
        if folder is None and place is not UNRESOLVED:
            self.faults.append(
                f'save_folder: stages teach from their folders: expected one on this machine, got {place!r}'
            )
        self.folder = folder or pathlib.Path()
        if own.get('autoresume', True) is not True:
            self.faults.append(
                'autoresume: stages go on where they stopped; leave it out, or give save_overwrite=true to start anew'
            )
        anew = own.get('save_overwrite')
        if not isinstance(anew, bool) and anew not in (None, UNRESOLVED):
            self.faults.append(f'save_overwrite: expected a boolean or null, got {anew!r}')
        if anew is True and own.get('autoresume'):
            self.faults.append('save_overwrite: true starts anew, and autoresume goes on; give one of them')
        return anew is True

    def _stage(self, name: str, settings: Any) -> tuple[list[str], bool]:
        """Reads one stage; returns the names of its runs, and whether they are evaluated together."""
        settings = {} if settings is None else settings
        fault = _wrong_name(name) or (
            None if isinstance(settings, dict) else f'expected the settings of a stage, got {settings!r}'
        )
        if fault is not None:
            self.faults.append(f'stages.{name}: {fault}')
            return [], False
        self.read_names.append(name)
        own, settings, overrides = self._split(name, settings)
        base = self._base(name, own.get('yaml'))
        count, together = own.get('generations'), own.get('ensemble', True)
        if count is not None and not (isinstance(count, int) and not isinstance(count, bool) and 0 < count <= MOST):
            self.faults.append(f'stages.{name}.generations: expected a whole number from 1 to {MOST}, got {count!r}')
            count = None
        if not isinstance(together, bool):
            self.faults.append(f'stages.{name}.ensemble: expected true or false, got {together!r}')
        members = []
        for number in range(1, (count or 1) + 1):
            run = name if count is None else f'{name}-{number}'
            if run in self.last:
                self.faults.append(f'stages.{name}: two runs would be called {run!r}; give one stage another name')
                break
            self._run(run, name, base, settings, overrides, number if count is not None else 0)
            members.append(run)
        self.last[name] = members[-1] if members else name
        return members, together is True

    def _split(self, name: str, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
        """Separates the keys of a stage itself from the settings of its run and their overrides."""
        overrides = self.own.get(name, [])
        asked, faults = read_settings([one for one in overrides if one.partition('=')[0] in OF_STAGE])
        self.faults += [f'stages.{name}.{fault}' for fault in faults]
        own = {**{key: value for key, value in settings.items() if key in OF_STAGE}, **asked}
        rest = {key: value for key, value in settings.items() if key not in OF_STAGE}
        overrides = [one for one in overrides if one.partition('=')[0] not in OF_STAGE]
        for key in (*rest, *(one.partition('=')[0] for one in overrides)):
            if key in OF_CHAIN:
                self.faults.append(f'stages.{name}.{key}: is of all stages; write it beside stages')
        return own, rest, overrides

    def _base(self, name: str, written: Any) -> dict[str, Any]:
        """The settings in which a stage makes changes: the shared ones, or those of a file of its own."""
        shared = {key: value for key, value in self.shared.items() if key not in OF_CHAIN}
        if written is None:
            return shared
        try:
            if not isinstance(written, str):
                raise ConfigError(f'expected the path of a YAML, from the folder of this one; got {written!r}')
            content = read_mapping(self.path.parent / written)
            if STAGES in content:
                raise ConfigError(f'{written} has stages itself; write them here')
        except ConfigError as error:
            self.faults.append(f'stages.{name}.yaml: {error}')
            return shared
        return {key: value for key, value in content.items() if key not in OF_CHAIN}

    def _run(
        self, run: str, name: str, base: dict[str, Any], settings: dict[str, Any], overrides: list[str], number: int
    ) -> None:
        """Checks the settings of one run."""
        own = {'run_name': f'{self.name}-{run}', 'save_folder': str(self.folder / run), 'autoresume': True}
        common = [one for one in self.common if not _is_left_out(one, settings)]
        self.taken.update(common)
        source = compose(self.path, {**base, **own}, settings, [*common, *overrides])
        config, faults = self._checked(source)
        for fault in faults:
            stages = self.found.setdefault(fault, [])
            if name not in stages:
                stages.append(name)
        if config is not None:
            config = dataclasses.replace(config, seed=config.seed + number)
            self.faults += [f'stages.{name}.{fault}' for fault in _inside(config, self.folder)]
            taught_by: dict[str, str] = {}
            if not self.faults and not self.found:
                config = with_teachers(config, lambda written, key: self._teacher(written, key, taught_by))
                self.stages.append(Stage(run, config, taught_by))
        self.last[run] = self.last[PREVIOUS] = run

    def _checked(self, source: Source) -> tuple[RunConfig | None, list[str]]:
        earlier = [name for name in self.last if name != PREVIOUS]
        with trusting(packages_in(source.data.get('allow_imports'))), after(earlier):
            return findings(source, RunConfig)

    def _teacher(self, written: StageTeacherConfig, key: str, taught_by: dict[str, str]) -> TeacherConfig:
        stage = next(one for one in self.stages if one.name == self.last[written.stage])
        taught_by[key] = stage.name
        return TeacherConfig(
            model=dataclasses.replace(stage.config.model, path=f'{key}.model'),
            checkpoint=str(stage.latest),
            input_adapter=written.input_adapter,
            forward=written.forward,
            name=written.name or written.stage,
        )

    def _report_shared(self) -> None:
        """Says a fault that all stages have once, and any other one with the stages that have it."""
        for fault, stages in self.found.items():
            everywhere = len(stages) == len(self.read_names) > 1
            self.faults += [fault] if everywhere else [f'stages.{name}.{fault}' for name in stages]


def _is_left_out(override: str, settings: dict[str, Any]) -> bool:
    """Whether an override is of a part that a stage sets to null, such as ``algorithms``."""
    key = override.partition('=')[0].strip().lstrip('-')
    return any(value is None and key.startswith(f'{name}.') for name, value in settings.items())


def _wrong_name(name: str) -> str | None:
    if name == PREVIOUS:
        return f'{PREVIOUS!r} means the run before; give the stage another name'
    if not name.replace('-', '').replace('_', '').isalnum():
        return 'expected a name of letters, digits, - and _, which is that of a folder too'
    return None


def _inside(config: RunConfig, folder: pathlib.Path) -> Iterator[str]:
    """Yields the settings that read another stage's files by their path, which would not be noticed to change."""
    here = folder.resolve()
    if config.load_path is not None and _is_below(config.load_path, here):
        yield f'load_path: {config.load_path} is of a stage of this YAML, which may teach another one, not start it'
    for source in config.model.holding(SourceConfig):
        if source.checkpoint is not None and _is_below(source.checkpoint, here):
            yield (
                f'{config.model.path}.teacher: {source.checkpoint} is of a stage of this YAML; write '
                '{stage: its name} in the place of model and checkpoint'
            )
    for algorithm in config.algorithms.values():
        for teacher in algorithm.holding(TeacherConfig):
            if teacher.checkpoint is not None and _is_below(teacher.checkpoint, here):
                yield (
                    f'{algorithm.path}.teachers: {teacher.checkpoint} is of a stage of this YAML; write '
                    f'{{stage: its name}} in the place of model and checkpoint'
                )
        for peer in algorithm.holding(PeerConfig):
            if peer.checkpoint is not None and _is_below(peer.checkpoint, here):
                yield (
                    f'{algorithm.path}.peers: {peer.checkpoint} is of a stage of this YAML, which may teach another '
                    'one, not start its peers; give weights from elsewhere'
                )
    for stored in stored_teachers(config.algorithms):
        if _is_below(stored.folder, here):
            yield (
                f'{stored.key}: {stored.folder} is in the folder of this YAML, where stages keep their runs; keep the '
                'store beside it'
            )


def _is_below(written: str, folder: pathlib.Path) -> bool:
    return '://' not in written and pathlib.Path(written).resolve().is_relative_to(folder)
