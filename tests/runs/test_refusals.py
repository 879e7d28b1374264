"""Values that the check of a run's YAML refuses, and what it says."""

from __future__ import annotations

import pytest

from tests.config.test_check import KD, refusal


@pytest.mark.parametrize(
    ('overrides', 'expected'),
    [
        (['device_train_microbatch_size=65'], 'device_train_microbatch_size: expected at most 64'),
        (['autoresume=true', 'save_overwrite=true'], 'save_overwrite: true would overwrite'),
        (['autoresume=true', 'save_folder=null'], 'autoresume: needs a save_folder'),
        (['algorithms.distillation.teachers.3.name=x'], "teachers is a list, got '3' for an index below 1"),
        (['seed.sub=3'], 'seed is 17, not a mapping'),
        (['model={name: '], 'the value is not valid YAML'),
        (['algorithms.distillation.teachers=[]'], 'No teachers'),
        (['algorithms.distillation.n_teachers_to_sample=2'], 'n_teachers_to_sample'),
        (['model=my_package.Net'], "no module named 'my_package'"),
        (['model=torch.nn.Liner'], "did you mean 'Linear'"),
        (['optimizer.params=[1]'], 'optimizer.params: unknown option'),
        (['train_loader.dataset.split=???'], "is '???', so it must be given"),
        (['seed=true'], 'seed: expected an integer, got True'),
        ([f'seed={2**32}'], 'seed: expected an integer that is from 0 to 2**32 - 1, got 4294967296'),
        (['max_duration=0.5dur'], "expected a Composer time such as '10ep' or '500ba' or an integer that is in"),
        (['max_duration=5iter'], 'that is in ep, ba or sp'),
        (['max_duration=60sec'], 'that is in ep, ba or sp'),
        (['max_duration=1000tok'], "that is in ep, ba or sp, got '1000tok'"),
        (['eval_interval=1000tok'], 'that is in ep, ba, sp or dur'),
        (['console_log_interval=10sp'], 'console_log_interval: expected a Composer time such'),
        (['console_log_interval=0.5dur'], "that is in ep or ba, got '0.5dur'"),
        (['save_interval=1000tok'], 'that is in ep, ba, sp or dur'),
        (['algorithms.Distillation={}'], 'algorithms.Distillation: names the same algorithm as algorithms.dist'),
        (['callbacks={lr_monitor: {}, LRMonitor: {}}'], 'callbacks.LRMonitor: names the same callback as callbacks.lr'),
        (['optimizer.lr=.nan'], 'optimizer.lr: expected a finite number, got nan'),
        (['algorithms.distillation.kd_loss_weight=.inf'], 'kd_loss_weight: expected a finite number, got inf'),
        (['optimizer={name: Adam, lr: 0.1, betas: [0.9, .nan]}'], 'optimizer.betas.1: expected a finite number'),
        (['optimizer={name: Adam, lr: 0.1, betas: [0.9]}'], 'expected a list of 2 (each a number'),
        (['algorithms.distillation.teachers.0.checkpoint=null'], 'teachers.0.checkpoint: the teacher DeepCNN has no'),
        (['train_loader.prefetch_factor=2'], 'train_loader.prefetch_factor: needs num_workers of at least 1, got 2'),
        (['eval_loader.persistent_workers=true'], 'eval_loader.persistent_workers: needs num_workers'),
        (['model=.mine.Net'], "'.mine.Net' is no dotted path"),
        (['save_folder=runs/{rank}'], 'save_folder: expected a string or null that is without braces but {run_name}'),
        (["run_name=' '"], 'run_name: expected a string or null that is not empty'),
        (['run_name=x{rank}'], 'run_name: expected'),
        (['optimizer=3'], 'optimizer: expected an optimizer: {name: ..., its options}; got 3'),
        (['algorithms=3'], 'algorithms: expected a mapping from the name of each algorithm to its options, got 3'),
    ],
)
def test_refused_overrides(overrides, expected):
    assert expected in refusal(KD, *overrides)


def test_sharding_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    assert 'fsdp_config: shards a model over GPUs, and there is none' in refusal(KD, 'fsdp_config={}')


@pytest.mark.parametrize(
    ('loss', 'reason'),
    [
        (f'{__name__}.make_loss', 'got function'),
        ('torch.nn.functional.cosine_similarity', 'got a tensor of shape (2,)'),
        ('{name: torch.nn.MSELoss, reduction: none}', 'got a tensor of shape (2, 3)'),
    ],
)
def test_what_is_no_loss_is_refused(loss, reason):
    text = refusal(KD, f'algorithms.distillation.kd_loss_fn={loss}')
    assert 'is no loss: expected (student, teacher) -> scalar tensor' in text
    assert reason in text


def test_a_function_of_one_argument_is_no_loss():
    text = refusal(KD, f'algorithms.distillation.kd_loss_fn={__name__}.of_one')
    assert 'of_one' in text
    assert 'is no distillation loss: expected a function of (student, teacher)' in text


def of_one(student):
    return student.mean()


def make_loss(temperature=2.0, weight=1.0):
    return lambda student, teacher: (student - teacher).mean()
