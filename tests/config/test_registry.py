"""Names and dotted paths, today's and those of older versions."""

from __future__ import annotations

import warnings

import pytest

import composer_kd
from composer_kd.config.dotted_paths import _exported_as, import_path
from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError

KD = 'yamls/digits/kd.yaml'


@pytest.fixture(autouse=True)
def nothing_said():
    """What was said once in another test is said again."""
    _exported_as.cache_clear()


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        ('composer_kd.distillation.Distillation', 'composer_kd.Distillation'),
        ('composer_kd.matching.Match', 'composer_kd.Match'),
        ('composer_kd.losses.response.KLDivergence', 'composer_kd.KLDivergence'),
        ('composer_kd.losses.feature.hint', 'composer_kd.losses.hint'),
        ('composer_kd.teachers.probe.feature_shapes', 'composer_kd.teachers.feature_shapes'),
        ('composer_kd.run.somewhere.deep.ShallowCNN', 'composer_kd.models.ShallowCNN'),
    ],
)
def test_a_path_into_a_module_that_is_gone_leads_to_the_public_name(old, new):
    with pytest.warns(FutureWarning, match=f'^{old} has moved: write {new}$'):
        found = import_path(old)
    assert found is import_path(new)


@pytest.mark.parametrize(
    ('path', 'said'),
    [
        ('composer_kd.losses.KLDivergense', "'composer_kd.losses' has no 'KLDivergense'; did you mean 'KLDivergence'"),
        ('composer_kd.losses.kl.DKD', "'composer_kd.losses.kl' has no 'DKD'"),
        ('composer_kd.matching.Comparison', "'composer_kd' has no 'matching'"),
        ('torch.nn.gone.KLDivergence', "'torch.nn' has no 'gone'"),
    ],
)
def test_other_paths_that_lead_nowhere_are_refused(path, said):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(ConfigError, match=said):
            import_path(path)


def test_a_yaml_of_an_older_version_is_read_and_the_new_path_said_once():
    model = '{name: DeepCNN, in_channels: 1, image_size: 8, num_classes: 10}'
    loss = '{name: composer_kd.losses.response.KLDivergence, temperature: 2.0}'
    options = f'{{teachers: {{model: {model}, checkpoint: x.pt}}, kd_loss_fn: {loss}}}'
    with pytest.warns(FutureWarning) as said:
        config = load_config(KD, [f'algorithms={{composer_kd.distillation.Distillation: {options}}}'])
    moved = [str(one.message) for one in said if 'has moved' in str(one.message)]
    assert len(moved) == len(set(moved)) == 2
    (distillation,) = config.algorithms.values()
    assert distillation.target is composer_kd.Distillation
    assert distillation.options['kd_loss_fn'].target is composer_kd.KLDivergence
