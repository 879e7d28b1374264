import pytest
import torch
from composer.core import State
from composer.devices import DeviceCPU
from torch import nn

from composer_kd import FrozenTeacher, TeacherError
from tests.helpers import TokenModel, mlp, pairs, student

transformers = pytest.importorskip('transformers')


def bert(labels=None):
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
        num_labels=labels or 2,
    )
    kind = transformers.BertForMaskedLM if labels is None else transformers.BertForSequenceClassification
    return kind(config).eval()


def t5():
    config = transformers.T5Config(
        vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    return transformers.T5ForConditionalGeneration(config).eval()


def composer(model):
    from composer.models import HuggingFaceModel

    return HuggingFaceModel(model, tokenizer=None, metrics=[])


def tokens():
    return {
        'input_ids': torch.randint(20, (2, 5)),
        'attention_mask': torch.ones(2, 5, dtype=torch.long),
        'labels': torch.randint(20, (2, 5)),
        'not_for_the_model': torch.zeros(2),
    }


class TakesBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, batch):
        inputs, labels = batch
        assert labels.shape == (len(inputs),)
        return self.inner(inputs)


@pytest.mark.parametrize('wrap', [lambda m: m, student], ids=['module', 'ComposerClassifier'])
def test_pairs(wrap):
    x, y = pairs(3)
    module = mlp()
    assert torch.equal(FrozenTeacher(wrap(module))((x, y)), module(x))
    assert torch.equal(FrozenTeacher(wrap(module))([x, y]), module(x))


def test_a_module_that_takes_the_batch():
    module, (x, y) = TakesBatch(), pairs(3)
    assert torch.equal(FrozenTeacher(module)((x, y)), module.inner(x))
    assert torch.equal(FrozenTeacher(mlp())(x), mlp()(x))  # a batch that is one tensor


@pytest.mark.parametrize('wrap', [lambda m: m, composer], ids=['transformers', 'HuggingFaceModel'])
def test_hugging_face_models_get_their_keys_and_no_labels(wrap):
    module, batch, seen = bert(), tokens(), []
    module.register_forward_pre_hook(lambda m, args, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    logits = FrozenTeacher(wrap(module))(batch)
    assert seen == [{'input_ids', 'attention_mask'}]
    assert logits.shape == (2, 5, 20)
    assert set(batch) == {'input_ids', 'attention_mask', 'labels', 'not_for_the_model'}


@pytest.mark.parametrize('wrap', [lambda m: m, composer], ids=['transformers', 'HuggingFaceModel'])
def test_an_encoder_decoder_keeps_its_labels(wrap):
    assert FrozenTeacher(wrap(t5()))(tokens()).shape == (2, 5, 20)


def test_mappings_without_matching_names():
    batch = tokens()
    assert FrozenTeacher(TokenModel(20))(batch).shape == (2, 5, 20)

    class Whole(nn.Module):
        def forward(self, batch):
            return batch['input_ids'].float()

    assert FrozenTeacher(Whole())(batch).shape == (2, 5)


def test_torchvision_and_timm_models():
    import timm
    import torchvision

    x, y = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    for module in (torchvision.models.resnet18(num_classes=5), timm.create_model('resnet10t', num_classes=5)):
        assert FrozenTeacher(module)((x, y)).shape == (2, 5)


def test_compiled_models():
    compiled = torch.compile(TakesBatch(), backend='eager')
    assert FrozenTeacher(compiled)(pairs(3)).shape == (3, 4)


def test_input_adapter_sees_inputs_alone_and_the_batch_stays():
    x, y = pairs(3)
    before = x.clone()
    module = mlp()
    assert torch.equal(FrozenTeacher(module, input_adapter=lambda x: x * 2)((x, y)), module(x * 2))
    assert torch.equal(FrozenTeacher(student(module), input_adapter=lambda x: x * 2)((x, y)), module(x * 2))
    assert torch.equal(x, before)

    batch, kept = tokens(), {}

    def adapt(inputs):
        kept['keys'] = set(inputs)
        inputs['input_ids'] = inputs['input_ids'] * 0
        return inputs

    model = bert()
    logits = FrozenTeacher(model, input_adapter=adapt)(batch)
    assert 'labels' not in kept['keys']
    assert batch['input_ids'].any()
    zeros = model(input_ids=batch['input_ids'] * 0, attention_mask=batch['attention_mask'])
    torch.testing.assert_close(logits, zeros.logits)


def test_own_forward():
    x, y = pairs(3)
    teacher = FrozenTeacher(mlp(), forward=lambda model, batch: {'logits': model(batch[0]) + 1})
    assert torch.equal(teacher((x, y)), mlp()(x) + 1)


def test_stays_in_eval_mode_and_frozen():
    module = mlp(dropout=0.5, norm=True)
    teacher = FrozenTeacher(module, input_adapter=nn.Linear(6, 6))
    teacher.prepare(State(nn.Identity(), 0, 'run', DeviceCPU()))
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not teacher.input_adapter.training
    module.train()
    first, second = teacher(pairs(4)), teacher(pairs(4))
    assert torch.equal(first, second)
    assert not module.training
    assert module[1].num_batches_tracked == 0


@pytest.mark.parametrize('model', ['resnet18', None, lambda x: x])
def test_refuses_what_is_no_module(model):
    with pytest.raises(TeacherError, match=r'A teacher must be a torch.nn.Module, got'):
        FrozenTeacher(model)


def test_refuses_an_adapter_that_cannot_be_called():
    with pytest.raises(TeacherError, match='input_adapter must be a callable'):
        FrozenTeacher(mlp(), input_adapter=3)


def test_names_the_teacher_without_logits():
    class Odd(nn.Module):
        def forward(self, x):
            return {'a': x, 'b': x}

    with pytest.raises(TeacherError, match=r"teacher 'Odd'.*mapping|teacher 'Odd'.*keys"):
        FrozenTeacher(Odd())(pairs(3))


def test_the_only_tensor_of_a_mapping():
    """An image processor's batch for a plain classifier."""
    x, y = pairs(3)
    module = mlp()
    assert torch.equal(FrozenTeacher(module)({'pixel_values': x, 'labels': y}), module(x))
    with pytest.raises(
        TeacherError, match=r"takes input, of which the batch with the keys \['a', 'b', 'labels'\] has none"
    ):
        FrozenTeacher(module)({'a': x, 'b': x, 'labels': y})


def test_a_wrapper_that_takes_any_keyword():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = bert()

        def forward(self, **inputs):
            return self.inner(**inputs)

    batch = {key: value for key, value in tokens().items() if key != 'not_for_the_model'}
    assert FrozenTeacher(Wrapper())(batch).shape == (2, 5, 20)


def test_a_wrapper_that_names_one_key_gets_the_others_too():
    seen = []

    class Wrapper(nn.Module):
        def forward(self, input_ids, **others):
            seen.append(set(others))
            return input_ids.float()

    FrozenTeacher(Wrapper())(tokens())
    assert seen == [{'attention_mask', 'not_for_the_model'}]


def test_the_only_tensor_among_other_things():
    x, y = pairs(3)
    assert torch.equal(FrozenTeacher(mlp())({'image': x, 'file': ['a', 'b', 'c'], 'label': y}), mlp()(x))


def test_causal_models_build_no_cache():
    config = transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    model, seen = transformers.GPT2LMHeadModel(config).eval(), []
    model.register_forward_hook(lambda module, args, output: seen.append(output.past_key_values))
    FrozenTeacher(model)(tokens())
    FrozenTeacher(composer(model))(tokens())
    assert seen == [None, None]


def test_scripted_models():
    teacher = FrozenTeacher(torch.jit.script(mlp()))
    teacher.prepare(State(nn.Identity(), 0, 'run', DeviceCPU()))
    assert torch.equal(teacher(pairs(3)), mlp()(pairs(3)[0]))


def test_names_the_teacher_that_cannot_answer():
    with pytest.raises(TeacherError, match=r"'old' cannot answer for this batch of 0: \(3, 6\) float32.*dtype"):
        FrozenTeacher(mlp().bfloat16(), name='old')(pairs(3))


def test_running_out_of_memory_is_left_to_composer():
    for message in ('CUDA out of memory. Tried to allocate', 'cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may'):

        def runs_out(model, batch, message=message):
            raise RuntimeError(message)

        with pytest.raises(RuntimeError, match=message[:9]):
            FrozenTeacher(mlp(), forward=runs_out)(pairs(3))
