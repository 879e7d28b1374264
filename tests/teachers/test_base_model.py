"""The base model of a student with adapters as its teacher, beside a frozen copy of it, in real Trainers."""

import copy
import gc

import pytest
import torch
from composer.models import ComposerClassifier, HuggingFaceModel
from torch import nn

from composer_kd import BaseModelTeacher, Distillation, FrozenTeacher, KLDivergence, Match, TeacherError
from composer_kd.losses import hint
from composer_kd.teachers.base_model import adapters_of, adapters_off
from tests.helpers import CLASSES, EventSpy, Recorder, TokenDataset, loader, mlp, mse, pairs, student, train, weights

peft, transformers = pytest.importorskip('peft'), pytest.importorskip('transformers')


def gpt(dropout=0.0, seed=1):
    sizes = {'vocab_size': 50, 'n_embd': 16, 'n_layer': 2, 'n_head': 2, 'n_positions': 8}
    rates = dict.fromkeys(('resid_pdrop', 'embd_pdrop', 'attn_pdrop'), dropout)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **rates))


def lora(net, **options):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        config = peft.LoraConfig(task_type='CAUSAL_LM', target_modules=['c_attn'], **options)
        return HuggingFaceModel(net, use_logits=True, metrics=[], peft_config=config)


def tokens(batch=4):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(50, (16, 8), generator=generator)
    mask = (torch.arange(8) < torch.tensor([4, 8]).repeat(8).unsqueeze(-1)).long()
    labels = ids.where(mask > 0, -100)
    return torch.utils.data.DataLoader(TokenDataset(input_ids=ids, attention_mask=mask, labels=labels), batch)


def run(model, teacher, matches=None, seen=(), **options):
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    algorithm = Distillation(teacher, matches or KLDivergence(2.0))
    return train(model, tokens(), [algorithm], seen, optimizer=optimizer, **options)


def trained(model):
    return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])


def layer(index=0):
    return f'base_model.model.transformer.h.{index}[0]', f'transformer.h.{index}[0]'


@pytest.mark.parametrize('options', [{}, {'use_dora': True}, {'modules_to_save': ['lm_head']}, {'lora_dropout': 0.2}])
def test_training_is_that_with_a_frozen_copy_to_the_bit(options):
    """Of a student with dropout, for which the base must draw nothing and run in eval mode."""
    found = []
    for teacher in (BaseModelTeacher(), FrozenTeacher(gpt(0.1))):
        model, seen = lora(gpt(0.1), **options), Recorder()
        run(model, teacher, seen=[seen])
        found.append((trained(model), seen.batches))
    assert found[0][1][-1]['kd'] > 0
    assert found[0][1] == found[1][1]
    assert torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize('microbatch', [4, 1])
def test_layers_are_matched_with_themselves_without_adapters(microbatch):
    found = []
    for teacher in (BaseModelTeacher(), FrozenTeacher(gpt(0.1))):
        seen, own = Recorder(), isinstance(teacher, BaseModelTeacher)
        on = layer()[0] if own else layer()
        matches = [KLDivergence(2.0), Match(hint, on=on, project='auto', name='hint')]
        run(lora(gpt(0.1)), teacher, matches, [seen], device_train_microbatch_size=microbatch)
        found.append(seen.batches)
    assert found[0][-1]['hint'] > 0
    assert found[0] == found[1]


def test_gradient_checkpointing_changes_nothing():
    found = []
    for checkpoints in (False, True):
        net = gpt()
        net.config.use_cache = False
        model = lora(net)
        if checkpoints:
            model.model.gradient_checkpointing_enable({'use_reentrant': False})
            model.model.enable_input_require_grads()
        run(model, BaseModelTeacher())
        found.append(trained(model))
    torch.testing.assert_close(found[0], found[1])


def test_the_student_is_left_as_it_is():
    model = lora(gpt(0.1), modules_to_save=['lm_head'])
    frozen = next(p for name, p in model.named_parameters() if 'lora_A' in name)
    frozen.requires_grad_(False)
    model.model.base_model.model.transformer.h[0].eval()
    teacher, looks = BaseModelTeacher(), []
    state = type('State', (), {'model': model, 'fsdp_config': None, 'tp_config': None})()
    teacher.prepare(state)
    batch = next(iter(tokens()))

    def look():
        modes = [part.training for part in model.modules()]
        flags = [p.requires_grad for p in model.parameters()]
        hooks = sum(len(part._forward_hooks) for part in model.modules())
        return modes, flags, hooks, torch.get_rng_state().tolist(), sorted(batch)

    before, looks = look(), []
    handle = model.model.register_forward_pre_hook(
        lambda part, args: looks.append((part.training, torch.is_grad_enabled()))
    )
    logits = teacher.outputs(batch).logits
    handle.remove()
    assert look() == before
    assert looks == [(False, False)]
    assert not logits.requires_grad
    inputs = {key: value for key, value in batch.items() if key != 'labels'}
    assert torch.equal(logits, gpt().eval()(**inputs, use_cache=False).logits)
    with pytest.raises(RuntimeError), adapters_off(adapters_of(model).values()):
        raise RuntimeError
    assert look() == before


def test_no_second_copy_of_the_weights():
    def held():
        gc.collect()
        tensors = {id(p): p for one in gc.get_objects() if isinstance(one, nn.Module) for p in one.parameters()}
        return sum(p.numel() for p in tensors.values())

    model, seen = lora(gpt()), []
    before = held()
    run(model, BaseModelTeacher(), seen=[EventSpy('batch_end', lambda state: seen.append(held()))], max_duration='2ba')
    assert seen == [before, before]


def test_a_student_of_several_adapters():
    model = lora(gpt())
    model.model.add_adapter('other', peft.LoraConfig(task_type='CAUSAL_LM', target_modules=['c_proj']))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'lora_B' in name:
                parameter.fill_(0.1)
    model.model.base_model.set_adapter(['default', 'other'])
    seen, expected = Recorder(), Recorder()
    other = copy.deepcopy(model)
    run(model, BaseModelTeacher(), mse, [seen])
    run(other, FrozenTeacher(gpt()), mse, [expected])
    assert seen.batches[0]['kd'] > 0
    assert seen.batches == expected.batches
    assert model.model.base_model.active_adapters == ['default', 'other']


def test_a_net_that_is_not_of_transformers():
    found = []
    for teacher in (BaseModelTeacher(), mlp(seed=1)):
        with torch.random.fork_rng():
            torch.manual_seed(2)
            net = peft.get_peft_model(mlp(seed=1), peft.LoraConfig(target_modules=['0', '4']))
        model, seen = student(net), Recorder()
        train(model, loader(*pairs()), [Distillation(teacher, KLDivergence(2.0))], [seen])
        found.append((weights(model), seen.batches))
    assert found[0][1][-1]['kd'] > 0
    assert found[0][1] == found[1][1]


def test_adapters_that_were_injected_without_peft_model():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = peft.inject_adapter_in_model(peft.LoraConfig(target_modules=['0', '4']), mlp(seed=1))
    seen = Recorder()
    train(student(net), loader(*pairs()), [Distillation(BaseModelTeacher(), mse)], [seen])
    assert seen.batches[0]['kd'] == pytest.approx(0.0, abs=1e-10)
    assert seen.batches[-1]['kd'] > 0


def test_a_resume_is_bit_equal(tmp_path):
    def go(**options):
        model = lora(gpt(0.1))
        run(model, BaseModelTeacher(), max_duration='2ep', **options)
        return trained(model)

    straight = go(save_folder=str(tmp_path), save_interval='1ba')
    inside, end = (next(tmp_path.glob(f'ep*-ba{batch}-rank0.pt')) for batch in (3, 4))
    for file in (inside, end):
        assert torch.equal(go(load_path=str(file)), straight)


def test_a_compiled_student():
    found = []
    for options in ({}, {'compile_config': {'backend': 'eager'}}):
        torch.compiler.reset()
        seen = Recorder()
        run(lora(gpt()), BaseModelTeacher(), [mse, Match(hint, on=layer()[0], name='hint')], [seen], **options)
        found.append(seen.batches)
    assert found[0][-1]['hint'] > 0
    for one, other in zip(*found):
        assert one == pytest.approx(other, rel=1e-4)


def test_it_goes_with_other_teachers_and_is_evaluated():
    seen = Recorder()
    matches = [Match(mse, teacher='base', name='base'), Match(mse, teacher='GPT2LMHeadModel', name='other')]
    algorithm = Distillation([BaseModelTeacher(), gpt(seed=7)], matches, run_teacher_on_eval=True)
    model = lora(gpt())
    train(model, tokens(), [algorithm], [seen], eval_dataloader=tokens())
    assert seen.batches[0]['base'] == pytest.approx(0.0, abs=1e-10)
    assert seen.batches[0]['other'] > 0
    assert algorithm.final_metrics()['metrics/eval/agreement/kl'] > 0


class Norm(nn.Sequential):
    def __init__(self):
        super().__init__(*mlp(seed=1, norm=True))


def adapted(**options):
    net = options.pop('net', None) or mlp(seed=1)
    return ComposerClassifier(
        peft.get_peft_model(net, peft.LoraConfig(target_modules=['0'], **options)), num_classes=CLASSES
    )


def unfrozen():
    model = adapted()
    model.module.base_model.model[4].weight.requires_grad_(True)
    return model


def merged():
    model = adapted()
    model.module.merge_adapter()
    return model


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (student, r'this student has none in its layers. Give it some: peft.get_peft_model'),
        (unfrozen, r"4.weight' of 1 changes in training .*modules_to_save"),
        (lambda: adapted(bias='all'), r'changes in training .*use "none"'),
        (lambda: adapted(net=Norm()), r"model.1' of 1 changes in training"),
        (merged, 'are merged into its base'),
    ],
)
def test_a_base_that_would_not_stay_as_it_is_is_refused(model, message):
    with pytest.raises(TeacherError, match=message):
        train(model(), loader(*pairs()), [Distillation(BaseModelTeacher(), mse)], max_duration='0ba')
    with pytest.raises(TeacherError, match='has no student yet'):
        BaseModelTeacher().outputs(pairs())


def test_a_norm_beside_the_base_is_fine():
    model = adapted(net=Norm(), modules_to_save=['1'])
    seen = Recorder()
    train(model, loader(*pairs()), [Distillation(BaseModelTeacher(), mse)], [seen])
    assert seen.batches[-1]['kd'] > 0
