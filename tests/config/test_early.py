"""Slips that are told before torch and Composer are imported."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import types
import typing

import pytest

from composer_kd.config import profiler, schema
from composer_kd.config.early import check_early, plain_types, sections
from composer_kd.config.load import load_config
from composer_kd.config.shipped import named, names
from composer_kd.config.stages import load_chain
from composer_kd.config.typecheck import describe, fits
from composer_kd.errors import ConfigError

SECTIONS = {
    name: thing
    for module in (profiler, schema)
    for name, thing in vars(module).items()
    if dataclasses.is_dataclass(thing) and thing.__module__ == module.__name__
}
PLAIN = {bool: 'bool', int: 'int', float: 'float', str: 'str', type(None): 'None'}


def test_the_keys_are_those_of_the_dataclasses():
    read = {name: set(keys) for name, keys in sections().items() if name in SECTIONS}
    assert read == {name: {field.name for field in dataclasses.fields(one)} for name, one in SECTIONS.items()}
    assert {'RunConfig', 'LoaderConfig', 'ProfilerConfig'} <= read.keys()


@pytest.mark.parametrize('name', sorted(SECTIONS))
def test_the_plain_types_are_those_of_the_dataclasses(name):
    for key, hint in typing.get_type_hints(SECTIONS[name]).items():
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        expected = [PLAIN[kind] for kind in kinds] if set(kinds) <= PLAIN.keys() else None
        assert plain_types(sections()[name][key]) == expected, key


@pytest.mark.parametrize('value', [None, True, 3, 2.5, 'x', [1], {'a': 1}])
def test_values_are_judged_and_described_as_by_the_whole_check(value, tmp_path):
    for key, hint in typing.get_type_hints(schema.RunConfig).items():
        if plain_types(sections()['RunConfig'][key]) is None:
            continue
        file = tmp_path / 'run.yaml'
        file.write_text('model: null')
        override = f'{key}={"null" if value is None else value}'
        if fits(value, hint):
            check_early(file, [override])
            continue
        with pytest.raises(ConfigError) as refused:
            check_early(file, [override])
        assert f'{key}: expected {describe(hint)}, got {value!r}' in str(refused.value)


@pytest.mark.parametrize('name', [name for name in names() if not name.startswith('sweeps/')])
def test_nothing_is_wrong_with_what_is_shipped(name):
    check_early(named(name))


@pytest.mark.parametrize(
    ('load', 'name', 'overrides'),
    [
        (load_config, 'digits/kd', ['optimzer.lr=1', 'train_loader.num_wokers=2', 'seed=x']),
        (load_config, 'digits/kd', ['profiler.activ=2', 'progress_bar=1', 'global_train_batch_size=1.5']),
        (load_config, 'digits/kd', ['evaluators=[{label: a, dataset: digits, drop_lst: true}]']),
        (load_config, 'digits/kd', ['seed=${nothing}', 'noequals']),
        (load_chain, 'digits', ['stages.alone.max_duratio=3ep', 'stages.teacher.seed=a', 'precsion=fp32']),
    ],
)
def test_each_slip_is_one_that_the_whole_check_tells_too(load, name, overrides):
    with pytest.raises(ConfigError) as early:
        check_early(named(name), overrides)
    with pytest.raises(ConfigError) as whole:
        load(named(name), overrides)
    told = [line for line in str(early.value).splitlines() if line.startswith('  ')]
    assert told
    for line in told:
        assert line in str(whole.value)


@pytest.mark.parametrize(
    'command', [['train', 'no.yaml'], ['train', '@digits/kd', 'optimzer.lr=1'], ['layers', '@digits/kd', 'seed=a']]
)
def test_neither_torch_nor_composer_is_imported(command):
    code = (
        f'import sys\nfrom composer_kd.cli.main import main\nassert main({command!r}) == 2\n'
        "sys.exit('torch' in sys.modules or 'composer' in sys.modules)"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'composer-kd: ' in done.stderr
