import pytest
import torch

from composer_kd import ConfigError, KLDivergence, LossError
from composer_kd.batches.masks import valid_of
from composer_kd.batches.microbatch import Microbatch
from composer_kd.matches.finite_check import FiniteCheck
from composer_kd.matches.loss_adapter import LossAdapter

TOKENS = {'labels': torch.tensor([[1, -100, 3], [-100, -100, 2]])}


def compare(loss, batch=TOKENS, shape=(2, 3, 5), dtype=torch.float32):
    student, teacher = torch.randn(shape).to(dtype).requires_grad_(), torch.randn(shape).to(dtype)
    return LossAdapter(loss).of_logits(student, teacher, Microbatch(batch, 7, valid_of(batch)))[0], student, teacher


def test_any_loss_gets_the_valid_rows():
    value, student, teacher = compare(torch.nn.MSELoss())
    mask = TOKENS['labels'] != -100
    assert value.item() == pytest.approx((student - teacher)[mask].square().mean().item())


def test_a_loss_with_a_mask_gets_all_rows():
    seen = {}

    def masked(student, teacher, mask):
        seen.update(shape=student.shape, mask=mask)
        return (student - teacher).square().mean()

    compare(masked)
    assert seen['shape'] == (2, 3, 5)
    assert seen['mask'].tolist() == [True, False, True, False, False, True]


@pytest.mark.parametrize('dim', [-1, 2, 1])
def test_classes_in_any_dimension_are_masked_alike(dim):
    """-1 and 2 are the same dimension of (B, S, V); models of (B, V, S) say 1."""
    student, teacher = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    expected = KLDivergence()(*(logits[TOKENS['labels'] != -100] for logits in (student, teacher)))
    if dim == 1:
        student, teacher = student.transpose(1, 2), teacher.transpose(1, 2)
    value, per_position = LossAdapter(KLDivergence(softmax_dim=dim)).of_logits(
        student, teacher, Microbatch(TOKENS, 0, valid_of(TOKENS))
    )
    assert per_position
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_loss_with_a_mask_is_told_when_all_count():
    seen = []

    def masked(student, teacher, mask):
        seen.append(mask)
        return (student - teacher).square().mean()

    batch = {'labels': torch.ones(2, 3, dtype=torch.long)}
    LossAdapter(masked).of_logits(torch.randn(2, 3, 5), torch.randn(2, 3, 5), Microbatch(batch, 0))
    LossAdapter(masked).of_logits(torch.randn(2, 5), torch.randn(2, 5), Microbatch((torch.zeros(2), torch.ones(2)), 0))
    assert seen == [None, None]


def test_no_valid_row_gives_zero():
    for loss in (torch.nn.MSELoss(), KLDivergence()):
        value, student, _ = compare(loss, {'labels': torch.full((2, 3), -100)})
        value.backward()
        assert value.item() == 0.0
        assert (student.grad == 0).all()


@pytest.mark.parametrize('loss', [torch.nn.MSELoss(), KLDivergence()])
def test_half_precision_logits_are_compared_in_float32(loss):
    value, student, teacher = compare(loss, dtype=torch.bfloat16)
    assert value.dtype == torch.float32
    exact = LossAdapter(loss).of_logits(student.float(), teacher.float(), Microbatch(TOKENS, 0, valid_of(TOKENS)))[0]
    assert value.item() == pytest.approx(exact.item(), rel=1e-6)


@pytest.mark.parametrize(
    ('loss', 'what'),
    [
        (torch.nn.MSELoss(reduction='none'), r'a tensor of shape \(3, 5\)'),
        (lambda s, t: 1.0, 'float'),
        (lambda s, t: t.mean(), "does not depend on the student's logits"),
    ],
)
def test_names_what_a_loss_returned(loss, what):
    with pytest.raises(LossError, match=what + '.* at batch 7'):
        compare(loss)


def test_names_the_loss_and_the_batch_of_a_nan():
    def broken(student, teacher):
        return (student * float('nan')).mean()

    with pytest.raises(LossError, match='broken is not finite at batch 7'):
        compare(broken)


def test_refuses_what_is_no_loss():
    with pytest.raises(ConfigError, match='kd_loss_fn must be a callable'):
        LossAdapter('KLDivergence')


def test_on_an_accelerator_nothing_waits(monkeypatch):
    """The answer of a batch arrives later; the error still names that batch."""
    arrived = []

    class Event:
        def query(self):
            return bool(arrived)

        def synchronize(self):
            arrived.append(True)

    class Elsewhere:
        """A scalar on another device: reading it before its copy has arrived is an error."""

        device = torch.device('meta')

        def __init__(self, value):
            self.value = value

        def detach(self):
            return self

    monkeypatch.setattr('composer_kd.matches.finite_check._fetch', lambda loss: (Event(), torch.tensor(loss.value)))
    check = FiniteCheck('MyLoss')
    check(Elsewhere(1.0), batch=3)
    check(Elsewhere(float('nan')), batch=4)
    check(Elsewhere(1.0), batch=5)
    with pytest.raises(LossError, match='MyLoss is not finite at batch 4'):
        check.poll(wait=True)
    arrived.append(True)
    check(Elsewhere(2.0), batch=6)


@pytest.mark.parametrize('log_target', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_torchs_divergence_takes_log_probabilities_alone(log_target, dtype):
    loss = torch.nn.KLDivLoss(reduction='batchmean', log_target=log_target)
    student, teacher = (torch.randn(4, 300, dtype=dtype) for _ in range(2))
    micro = Microbatch((student, torch.zeros(4, dtype=torch.long)), 0)
    with pytest.raises(LossError, match=r'KLDivLoss.*takes log-probabilities.*gets its logits.*KLDivergence'):
        LossAdapter(loss).of_logits(student, teacher, micro)
    target = teacher.log_softmax(-1) if log_target else teacher.softmax(-1)
    value, _ = LossAdapter(loss).of_logits(student.log_softmax(-1), target, micro)
    expected = KLDivergence(temperature=1.0)(student, teacher)
    assert value.item() == pytest.approx(expected.item(), rel=0.05)
