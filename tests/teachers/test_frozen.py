import io
import warnings
from copy import deepcopy

import pytest
import torch
from composer.core import State
from composer.devices import DeviceCPU
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import ConfigError, Distillation, FrozenTeacher, KLDivergence, Match, TeacherError
from composer_kd.data import Indexed
from composer_kd.models import IndexedClassifier
from tests.helpers import Recorder, TokenModel, loader, mlp, mse, pairs, student, train, trainer

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


def gpt2(seed=0, **settings):
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=8, n_layer=2, n_head=2, n_positions=16, initializer_range=0.5, attn_pdrop=0.0,
        resid_pdrop=0.0, embd_pdrop=0.0, **settings,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.GPT2LMHeadModel(config)


def llama(**settings):
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=8, initializer_range=0.5, **settings,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize('ours', [True, False])
@pytest.mark.parametrize('theirs', [True, False])
@pytest.mark.parametrize('wrap', [lambda m: m, composer], ids=['transformers', 'HuggingFaceModel'])
def test_of_packed_samples_a_copy_sees_what_the_student_sees(ours, theirs, wrap):
    ids, restarts = torch.randint(20, (1, 9)), torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    batch = {'input_ids': ids, 'position_ids': restarts, 'labels': ids}
    model = composer(llama(use_cache=ours))
    teacher = FrozenTeacher(wrap(llama(use_cache=theirs)))
    teacher.prepare(State(model, 0, 'run', DeviceCPU()))
    torch.testing.assert_close(teacher(batch), model(batch).logits)
    # A student that checkpoints its activations builds no cache, whatever its config says.
    model.model.gradient_checkpointing_enable({'use_reentrant': False})
    model.train()
    teacher.prepare(State(model, 0, 'run', DeviceCPU()))
    torch.testing.assert_close(teacher(batch), model(batch).logits)


def test_an_adapter_hands_on_what_its_forward_does_not_name():
    """As PeftModelForCausalLM, which names no position_ids."""

    class Adapter(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = gpt2().eval()
            self.config = self.inner.config

        def get_base_model(self):
            return self.inner

        def forward(self, input_ids, attention_mask=None, **others):
            return self.inner(input_ids=input_ids, attention_mask=attention_mask, **others)

    adapter = Adapter()
    batch = {'input_ids': torch.randint(20, (2, 5)), 'position_ids': torch.arange(5).flip(0)[None].repeat(2, 1)}
    assert torch.equal(FrozenTeacher(adapter)({**batch, 'other': torch.zeros(2)}), adapter.inner(**batch).logits)


class WithoutMask(nn.Module):
    def forward(self, input_ids):
        return input_ids.float()[..., None] + torch.arange(3.0)


def test_what_the_student_gets_and_the_teacher_does_not_is_said():
    batch = {'input_ids': torch.randint(20, (2, 5)), 'attention_mask': torch.ones(2, 5), 'other': torch.zeros(2)}
    state = State(composer(bert()), 0, 'run', DeviceCPU())
    teacher = FrozenTeacher(WithoutMask())
    teacher.prepare(state)
    with pytest.warns(UserWarning, match=r"does not take 'attention_mask' of the batch, which the student takes"):
        teacher(batch)
    for other in (
        FrozenTeacher(bert()),
        FrozenTeacher(WithoutMask(), forward=lambda model, batch: model(batch['input_ids'])),
    ):
        other.prepare(state)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            other(batch | {'attention_mask': torch.ones(2, 5, dtype=torch.long)})


class TwoInputs(nn.Module):
    def forward(self, input_ids, attention_mask):
        return input_ids.float()[..., None] * attention_mask[..., None] + torch.arange(3.0)


def from_file(script):
    file = io.BytesIO()
    torch.jit.save(script, file)
    file.seek(0)
    return torch.jit.load(file)


def exported(module, inputs):
    batch = torch.export.Dim('batch')
    return torch.export.export(module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs)).module()


RECORDED = {
    'scripted': lambda net, x: torch.jit.script(net),
    'from a file': lambda net, x: from_file(torch.jit.script(net)),
    'traced': lambda net, x: torch.jit.trace(net, x),
    'traced, from a file': lambda net, x: from_file(torch.jit.trace(net, x)),
    'frozen': lambda net, x: torch.jit.freeze(torch.jit.trace(net, x)),
    'exported': exported,
    'inside another': lambda net, x: nn.Sequential(exported(net, x)),
}


@pytest.mark.parametrize('record', RECORDED.values(), ids=RECORDED)
def test_recorded_modules_teach(record):
    net, (x, y) = mlp().eval(), pairs(24)
    teacher = FrozenTeacher(record(net, (x[:8],)))
    torch.testing.assert_close(teacher((x, y)), net(x))
    other = student(seed=1)
    recorder = Recorder()
    train(other, loader(x, y, 8), [Distillation(teacher, KLDivergence(), 1.0, 0.0)], [recorder])
    expected = KLDivergence()(student(seed=1).module.train()(x[:8]), net(x[:8]))
    assert recorder.microbatches[0]['kd'] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize('key', ['scripted', 'from a file', 'traced', 'frozen', 'exported'])
def test_recorded_modules_get_the_entries_that_they_name(key):
    net, inputs = TwoInputs().eval(), (torch.randint(20, (4, 5)), torch.ones(4, 5, dtype=torch.long))
    batch = {'attention_mask': inputs[1], 'input_ids': inputs[0], 'labels': torch.zeros(4)}
    assert torch.equal(FrozenTeacher(RECORDED[key](net, inputs))(batch), net(*inputs))


def test_an_exported_module_gets_keywords_where_it_was_called_with_them():
    net, inputs = TwoInputs().eval(), (torch.randint(20, (4, 5)), torch.ones(4, 5, dtype=torch.long))
    batch = {'attention_mask': inputs[1], 'input_ids': inputs[0], 'labels': torch.zeros(4)}
    for given, named in (((), batch), (inputs[:1], {'attention_mask': inputs[1]})):
        named = {key: value for key, value in named.items() if key != 'labels'}
        module = torch.export.export(net, given, named).module()
        assert torch.equal(FrozenTeacher(module)(batch), net(*inputs))


@pytest.mark.parametrize('options', [{'dropout': 0.5}, {'norm': True}], ids=['dropout', 'norm'])
@pytest.mark.parametrize('key', ['traced', 'exported'])
def test_what_was_recorded_in_train_mode_is_refused(key, options):
    (x, y), record = pairs(8), RECORDED[key]
    record = (lambda net, x: torch.jit.trace(net, x, check_trace=False)) if key == 'traced' else record
    with pytest.raises(TeacherError, match=r'was recorded in train mode.*Record it again after model.eval\(\)'):
        FrozenTeacher(record(mlp(**options).train(), (x,)))((x, y))
    FrozenTeacher(record(mlp(**options).eval(), (x,)))((x, y))


@pytest.mark.parametrize('place', ['0', 'outputs'])
def test_layers_of_torchscript_are_refused(place):
    scripted = from_file(torch.jit.script(mlp().eval()))
    with pytest.raises(ConfigError, match=rf"'{place}' of the teacher .* is TorchScript.*nn.Sequential"):
        train(student(), loader(*pairs()), [Distillation(scripted, Match(mse, on=('4', place)))])


def test_outputs_of_recorded_modules_are_seen_in_another():
    matches = lambda: Match(mse, on=('4', 'outputs'))  # noqa: E731
    recorders = []
    for teacher in (nn.Sequential(from_file(torch.jit.script(mlp().eval()))), mlp()):
        recorders.append(Recorder())
        train(student(), loader(*pairs()), [Distillation(teacher, matches())], recorders[-1:])
    assert recorders[0].microbatches[0] == pytest.approx(recorders[1].microbatches[0], rel=1e-5)


class Placed(nn.Module):
    """A stand-in for what accelerate and bitsandbytes leave: it cannot be moved."""

    def __init__(self, mark):
        super().__init__()
        self.inner, self.moved = mlp(), []
        setattr(self.inner, mark, True)

    def forward(self, x):
        return self.inner(x)

    def _apply(self, *arguments, **options):
        raise ValueError('it cannot be moved')


@pytest.mark.parametrize('mark', ['_hf_hook', 'is_loaded_in_8bit', 'is_loaded_in_4bit'])
def test_what_others_placed_stays_there(mark):
    recorder = Recorder()
    train(student(), loader(*pairs()), [Distillation(Placed(mark), KLDivergence())], [recorder])
    reference = Recorder()
    train(student(), loader(*pairs()), [Distillation(mlp(), KLDivergence())], [reference])
    assert recorder.microbatches == reference.microbatches
    with pytest.raises(ValueError, match='it cannot be moved'):
        train(student(), loader(*pairs()), [Distillation(Placed('anything_else'), KLDivergence())])


def test_an_offloaded_teacher_answers_from_where_it_lies(tmp_path):
    accelerate = pytest.importorskip('accelerate')
    teacher, copy = mlp().eval(), mlp().eval()
    accelerate.disk_offload(teacher, tmp_path, execution_device='cpu')
    recorder, reference = Recorder(), Recorder()
    matches = lambda: [KLDivergence(), Match(mse, on='0')]  # noqa: E731
    train(student(), loader(*pairs()), [Distillation(teacher, matches())], [recorder])
    train(student(), loader(*pairs()), [Distillation(copy, matches())], [reference])
    assert recorder.microbatches == reference.microbatches
    assert all(parameter.device.type == 'meta' for parameter in teacher.parameters())


def test_weights_without_data_are_said():
    with pytest.raises(TeacherError, match=r"has no weights: '0.weight' is on the meta device"):
        train(student(), loader(*pairs()), [Distillation(mlp().to('meta'), KLDivergence())])


@pytest.mark.parametrize(
    ('forward', 'micro'),
    [
        (lambda table, batch, index: table(index), 8),
        (lambda table, batch: table(batch[2]), 8),
        (lambda table, batch: table(batch[2]), 3),
    ],
)
def test_stored_answers_are_found_by_the_number_of_the_sample(forward, micro):
    x, y = pairs(24)
    table = nn.Embedding.from_pretrained(mlp()(x).detach())
    stored = FrozenTeacher(table, forward=forward)

    def distil(teacher):
        recorder, model = Recorder(), IndexedClassifier(mlp(seed=1), num_classes=4)
        data = DataLoader(Indexed(TensorDataset(x, y)), 8, shuffle=True)
        with torch.random.fork_rng():
            algorithm = Distillation(teacher, KLDivergence())
            train(model, data, [algorithm], [recorder], max_duration='2ep', device_train_microbatch_size=micro)
        return [step['kd'] for step in recorder.microbatches]

    assert distil(stored) == pytest.approx(distil(mlp()), rel=1e-4)
    assert torch.equal(stored.outputs((x, y), torch.tensor([3, 1])), table(torch.tensor([3, 1])))


def test_a_forward_gets_the_batch_of_the_student():
    """A triple if the student gets one, a pair where there are no numbers, and a pair beside a parameter ``index``."""
    x, y = pairs(8)
    seen = []

    def forward(model, batch):
        seen.append(tuple(len(part) for part in batch))
        return model(batch[0])

    def apart(model, batch, index=None):
        return forward(model, batch)

    for call, training in ((forward, (8, 8, 8)), (apart, (8, 8))):
        teacher, model = FrozenTeacher(mlp(), forward=call), IndexedClassifier(mlp(seed=1), num_classes=4)
        data = DataLoader(Indexed(TensorDataset(x, y)), 8)
        algorithm = Distillation(teacher, KLDivergence(), run_teacher_on_eval=True)
        run = trainer(model, data, [algorithm], eval_dataloader=data)
        seen.clear()
        run.fit()
        run.close()
        assert seen == [training, (8, 8)]


def test_a_forward_that_looks_for_the_number_in_the_batch_is_told_where_it_is():
    table = nn.Embedding(24, 4)
    teacher = FrozenTeacher(table, forward=lambda table, batch: table(batch[2]))
    with pytest.raises(TeacherError, match=r'a parameter named index gets the samples. numbers'):
        train(student(), loader(*pairs()), [Distillation(teacher, KLDivergence())])


def test_a_copy_is_called_itself_with_forward_too():
    teacher, (x, y) = FrozenTeacher(mlp(), forward=lambda model, batch: model(batch[0])), pairs()
    teacher((x, y))
    twin = deepcopy(teacher)
    with torch.no_grad():
        for parameter in twin.model.parameters():
            parameter.zero_()
    assert not twin((x, y)).any()


def test_names_the_teacher_that_cannot_answer():
    with pytest.raises(TeacherError, match=r"'old' cannot answer for this batch of 0: \(3, 6\) float32.*dtype"):
        FrozenTeacher(mlp().bfloat16(), name='old')(pairs(3))


def test_running_out_of_memory_is_left_to_composer():
    for message in ('CUDA out of memory. Tried to allocate', 'cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may'):

        def runs_out(model, batch, message=message):
            raise RuntimeError(message)

        with pytest.raises(RuntimeError, match=message[:9]):
            FrozenTeacher(mlp(), forward=runs_out)(pairs(3))


@pytest.mark.parametrize('other', [lambda x: x, lambda x: {'x': x}, lambda x: [x, x.sum(1)]], ids=['x', 'dict', 'list'])
def test_is_called_as_each_kind_of_batch_needs(other):
    """Training has pairs, an evaluator may have inputs alone: its first sample must not be taken for the inputs."""
    net = nn.Sequential(nn.Linear(6, 6), nn.Softmax(-1))
    x, y = pairs()
    teacher = FrozenTeacher(net)
    assert torch.equal(teacher((x, y)), net(x))
    assert torch.equal(teacher(other(x)), net(x))
    assert torch.equal(teacher((x, y)), net(x))
