"""A store in another format is the one that the teacher would have been stored in."""

import pytest
import torch

from composer_kd.errors import StoreError
from composer_kd.stores import Dense, Feature, Hidden, Sampled, Store, TopK, recode, to_mds
from tests.stores.building import FEATURES, Said, build, content, manifest, replace


@pytest.mark.parametrize('positions', ['samples', 'tokens'])
@pytest.mark.parametrize('form', [TopK(3, 2.0), Sampled(5, 2.0), Dense('bfloat16')])
def test_it_is_the_store_that_the_teacher_makes(tmp_path, form, positions):
    of = manifest(positions=positions, features=FEATURES, data={'name': 'digits'})
    said = Said(of)
    dense = build(tmp_path / 'dense', of, said)
    directly = build(tmp_path / 'directly', replace(of, format=form.settings()), said)
    made = recode(dense, tmp_path / 'made', form)
    assert content(made.folder) == content(directly.folder)
    assert made.manifest.data == {'name': 'digits'}


@pytest.mark.parametrize('positions', ['samples', 'tokens'])
def test_features_of_each_token_are_kept(tmp_path, positions):
    of = manifest(positions=positions, features={'layer': Feature((3,), 'float32', per='token')})
    said = Said(of)
    directly = build(tmp_path / 'directly', replace(of, format=TopK(3, 2.0).settings()), said)
    made = recode(build(tmp_path / 'dense', of, said), tmp_path / 'made', TopK(3, 2.0))
    assert content(made.folder) == content(directly.folder)


def test_a_store_in_mds_is_a_source(tmp_path):
    pytest.importorskip('streaming')
    dense = build(tmp_path / 'dense', manifest(positions='tokens', features=FEATURES))
    to_mds(dense, tmp_path / 'mds')
    made = [
        recode(store, tmp_path / name, TopK(3, 2.0)) for name, store in (('a', dense), ('b', Store(tmp_path / 'mds')))
    ]
    assert content(made[0].folder) == content(made[1].folder)


def test_an_attempt_that_was_ended_goes_on(tmp_path, monkeypatch):
    of = manifest()
    dense = build(tmp_path / 'dense', of)
    read, calls = type(dense).logits, []

    def ends(self, *asked):
        calls.append(asked)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read(self, *asked)

    with monkeypatch.context() as patched:
        patched.setattr(type(dense), 'logits', ends)
        with pytest.raises(KeyboardInterrupt):
            recode(dense, tmp_path / 'made', TopK(3, 1.0))
    with pytest.raises(StoreError, match='resume its build'):
        recode(dense, tmp_path / 'made', TopK(3, 1.0))
    recode(dense, tmp_path / 'made', TopK(3, 1.0), resume=True)
    recode(dense, tmp_path / 'undisturbed', TopK(3, 1.0))
    assert content(tmp_path / 'made') == content(tmp_path / 'undisturbed')


@pytest.mark.parametrize('form', [TopK(3, 1.0), Sampled(5, 1.0), Hidden(4)])
def test_what_is_not_all_logits_is_no_source(tmp_path, form):
    of = manifest(form=form)
    said = Said(of)
    if isinstance(form, Hidden):
        said.logits = torch.randn(len(said.logits), 4)
    with pytest.raises(StoreError, match='format dense'):
        recode(build(tmp_path / 'first', of, said), tmp_path / 'made', Dense())


def test_hidden_states_cannot_be_made_of_logits(tmp_path):
    with pytest.raises(StoreError, match='running the teacher'):
        recode(build(tmp_path / 'dense', manifest()), tmp_path / 'made', Hidden(4))


@pytest.mark.parametrize('form', [TopK(2, 2.0), Dense('bfloat16')])
def test_the_first_classes_alone_are_that_of_cut_logits(tmp_path, form):
    of = manifest(positions='tokens')
    dense = build(tmp_path / 'dense', of)
    made = recode(dense, tmp_path / 'made', form, vocabulary=3)
    assert made.manifest.classes == 3
    rows = torch.arange(of.samples).numpy()
    said, whole = made.logits(0, rows), dense.logits(0, rows)[..., :3].float()
    if isinstance(form, Dense):
        torch.testing.assert_close(said.float(), whole, rtol=1e-2, atol=1e-2)
    else:
        expected = (whole / 2.0).log_softmax(-1).topk(2, dim=-1)
        assert torch.equal(said.ids, expected.indices)
        torch.testing.assert_close(said.log_probs.float(), expected.values, rtol=1e-2, atol=1e-2)
    with pytest.raises(StoreError, match='vocabulary=900'):
        recode(dense, tmp_path / 'more', form, vocabulary=900)
