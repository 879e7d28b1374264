"""Every exported loss is held to every law that its case names; each pair is a test of its own."""

import dataclasses
import importlib

import pytest
import torch

from composer_kd import losses
from composer_kd.testing import LAWS, laws_of
from composer_kd.testing.tools import value_of

KINDS = ('response', 'feature', 'relation')
HELPERS = {'standardize'}  # exported, but no losses


def collect():
    cases = {}
    for kind in KINDS:
        found = importlib.import_module(f'tests.losses.cases.{kind}').CASES
        assert not cases.keys() & found.keys()
        cases.update(found)
    return cases


CASES = {name: dataclasses.replace(case, empty=True) for name, case in collect().items()}
PAIRS = [(name, law) for name, case in CASES.items() for law in laws_of(case)]


def test_every_exported_loss_has_a_case():
    assert set(CASES) == set(losses.__all__) - HELPERS


@pytest.mark.parametrize(('name', 'law'), PAIRS, ids=[f'{name}-{law.replace(" ", "_")}' for name, law in PAIRS])
def test_obeys(name, law):
    LAWS[law](CASES[name])


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
@pytest.mark.parametrize('name', CASES)
def test_half_precision_is_computed_in_float32(name, dtype):
    """Stricter than the law, which also holds for losses that compute in the precision of their inputs."""
    student, teacher, *extra = CASES[name].inputs(0)
    rounded = [convert(side, dtype) for side in (student, teacher)]
    case = CASES[name]
    value = case_value(case, *rounded, *extra)
    assert value.dtype == torch.float32
    exact = case_value(case, *(convert(side, torch.float32) for side in rounded), *extra)
    assert value.item() == pytest.approx(exact.item(), rel=1e-5, abs=1e-7)


def convert(side, dtype):
    return side.to(dtype) if isinstance(side, torch.Tensor) else [x.to(dtype) for x in side]


def case_value(case, student, teacher, extra=None):
    return value_of(case, student, teacher, extra or {})


def test_only_twins_go_without_a_reference():
    """Their function, of the same name in snake case, has one."""
    checked = {name.replace('_', '').lower() for name, case in CASES.items() if case.reference is not None}
    assert [name for name in CASES if name.replace('_', '').lower() not in checked] == []
