"""Finds out what a language model does with its last hidden states, and with labels, on a few tokens."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.batches.contents import IGNORE
from composer_kd.errors import ConfigError, is_of_device
from composer_kd.features.meta import as_in_evaluation, without_draws
from composer_kd.losses.linear_logits import LinearLogits

__all__ = ['Tail', 'find_tail', 'linear_parts', 'refuse']

_TOKENS = 8
_ROUNDING = {4: 64.0, 8: 64.0}  # steps of a dtype, by its bytes, by which equal results may differ; 4 of half precision
_LARGEST = 64.0  # of the products that the head is made to return: enough to tell a soft-cap from none
_WAY_OUT = 'Leave fused_head out: the logits are then made of all positions at once'

# Where the configs of transformers state a factor of all logits, with its power, and their bound.
_FACTORS = {'logit_scale': 1, 'lm_head_multiplier': 1, 'logits_scaling': -1}
_CAPS = ('final_logit_softcapping', 'logits_soft_cap')


@dataclass(frozen=True)
class Tail:
    """What follows the linear head of a model.

    Attributes:
        sizes: The shape of the head's weights, ``(V, D)``.
        scale: The factor of all logits.
        softcap: Their bound; ``None`` for none.
    """

    sizes: torch.Size
    scale: float
    softcap: float | None


def linear_parts(net: Any) -> list[nn.Linear]:
    """The linear layers in the head of a model: one, or those of a wrapper of it, of which one runs.

    Example:
        >>> linear_parts(nn.Linear(2, 3))
        []
    """
    ask = getattr(net, 'get_output_embeddings', None)
    head = ask() if callable(ask) else None
    parts = head.modules() if isinstance(head, nn.Module) else ()
    return [part for part in parts if isinstance(part, nn.Linear) and _is_plain(part)]


def find_tail(net: Any, whose: str, shifts: bool | None) -> Tail:
    """Finds what follows a model's linear head.

    The model runs on a few tokens in eval mode, three times. In the second pass the head is made to return numbers of a
    wide range, which tell a factor from a soft-cap; what has weights of its own behind the head shows in the graph. In
    the third it is sure of the labels, and 0 elsewhere: whatever is added to logits or loss is then seen whole, however
    few digits the model's dtype has.

    Args:
        net: The model of transformers.
        whose: Its name, for messages.
        shifts: For a model whose own loss is checked too: whether position ``i`` has the label ``i + 1`` in it.

    Raises:
        ConfigError: If logits are not those of a linear layer with a known factor or bound, or the loss is another.
    """
    head = getattr(net, 'get_output_embeddings', lambda: None)()
    if not isinstance(head, nn.Module):
        refuse(whose, f'is a {type(net).__name__} that names no head (get_output_embeddings) of language models')
    if not linear_parts(net):
        refuse(whose, f'has a head that is not linear: {type(head).__module__}.{type(head).__name__}')
    if getattr(net.config, 'is_encoder_decoder', False):
        refuse(whose, 'is an encoder-decoder, which needs its labels in the forward pass')
    run = _Run(net, whose, shifts is not None)
    layer, hidden, products = run.plain(head)
    if hidden.shape[:-1] != (1, run.tokens.shape[1]):
        refuse(whose, f'gives its head {tuple(hidden.shape)}, not the hidden states of all positions')
    if not _near(F.linear(hidden, layer.weight, layer.bias), products):
        refuse(whose, f'has a head that is more than one linear layer: {type(head).__module__}.{type(head).__name__}')
    outputs, z = run.replaced(layer, products, run.wide(products))
    if _leaves(outputs.logits) - {id(z)}:
        refuse(whose, 'has weights behind its linear head, such as a bias that is added later')
    tails = _tails(net.config, layer.weight.shape)
    tail = next((one for one in tails if _alike(_shaped(one, z), outputs.logits)), None)
    if tail is None:
        refuse(whose, 'changes the products of its head in a way that its config does not state')
    sure, z = run.replaced(layer, products, run.sure(products, bool(shifts)))
    if sure.logits.shape != z.shape or sure.logits[z == 0].any():
        refuse(whose, 'adds something to the products of its head, such as a bias that is added later')
    if shifts is not None:
        for one in (outputs, sure):
            _check_loss(one, run.labels, shifts, whose, net)
    return tail


class _Run:
    """A model's forward passes on a few tokens.

    Args:
        net: The model.
        whose: Its name, for messages.
        with_loss: Whether it gets labels.
    """

    def __init__(self, net: Any, whose: str, with_loss: bool) -> None:
        self._net, self._whose, self._with_loss = net, whose, with_loss
        layers = (net.get_input_embeddings(), net.get_output_embeddings())
        sizes = [getattr(layer, 'weight', torch.empty(_TOKENS)).shape[0] for layer in layers]
        device = next((p.device for p in net.get_output_embeddings().parameters()), torch.device('cpu'))
        self.tokens = (torch.arange(_TOKENS, device=device) % min(sizes)).unsqueeze(0)
        self.labels = self.tokens.clone()
        self.labels[:, 2] = self.labels[:, -2] = IGNORE

    def plain(self, head: nn.Module) -> tuple[nn.Linear, Tensor, Tensor]:
        """The linear layer of the head that made its outputs, what it was given, and these outputs."""
        seen: list[tuple[nn.Linear, Tensor]] = []
        made: list[Tensor] = []
        with contextlib.ExitStack() as stack:
            for part in linear_parts(self._net):
                stack.enter_context(
                    _hooked(part, lambda layer, args, output: seen.append((layer, args[0].detach().clone())))
                )
            stack.enter_context(_hooked(head, lambda layer, args, output: made.append(output.detach().clone())))
            with torch.no_grad():
                self._run()
        if not seen or not made:
            refuse(self._whose, f'has a {type(head).__name__} as its head, whose weights it uses without running it')
        return (*seen[-1], made[-1])

    @staticmethod
    def wide(products: Tensor) -> Tensor:
        """Numbers of a wide range in the shape of the products."""
        return torch.linspace(-_LARGEST, _LARGEST, products.numel(), device=products.device).reshape(products.shape)

    def sure(self, products: Tensor, shifts: bool) -> Tensor:
        """Products that are sure of the labels, and 0 for all other classes."""
        labels = self.labels.roll(-1, 1) if shifts else self.labels
        found = torch.zeros_like(products, dtype=torch.float32)
        return found.scatter_(-1, labels.clamp(min=0).unsqueeze(-1), _LARGEST)

    def replaced(self, layer: nn.Linear, products: Tensor, numbers: Tensor) -> tuple[Any, Tensor]:
        """The outputs of the model with other products of the head, and these products."""
        z = numbers.to(products.dtype).requires_grad_()
        with _hooked(layer, lambda layer, args, output: z), torch.enable_grad():
            return self._run(), z

    def _run(self) -> Any:
        try:
            with as_in_evaluation(self._net), without_draws():
                inputs = {'input_ids': self.tokens, 'attention_mask': torch.ones_like(self.tokens)}
                outputs = self._net(**inputs, **({'labels': self.labels} if self._with_loss else {}))
        except Exception as error:
            if is_of_device(error):
                raise
            refuse(self._whose, f'does not run on {_TOKENS} tokens: {type(error).__name__}: {error}')
        if not isinstance(getattr(outputs, 'logits', None), Tensor):
            refuse(self._whose, f'returns {type(outputs).__name__} without logits (is return_dict off?)')
        return outputs


def _check_loss(outputs: Any, labels: Tensor, shifts: bool, whose: str, net: Any) -> None:
    logits = outputs.logits.float() if outputs.logits.dtype.itemsize < 4 else outputs.logits
    logits, labels = (logits[:, :-1], labels[:, 1:]) if shifts else (logits, labels)
    own = getattr(outputs, 'loss', None)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    # Near 0 the loss is a difference of two numbers as large as the logits.
    rounding = 4.0 * torch.finfo(torch.float32).eps * float(logits.detach().abs().max())
    if not isinstance(own, Tensor) or not (_near(expected, own) or abs(float(expected - own)) <= rounding):
        refuse(
            whose,
            f'computes a loss of its own, as {type(net).__name__} does, that is not the mean cross-entropy of '
            f'{"the next tokens" if shifts else "the labels"} (a balance of experts, for example)',
        )


def _is_plain(layer: nn.Module) -> bool:
    """Whether a linear layer computes what ``F.linear`` of its weights does."""
    return type(layer).forward is nn.Linear.forward and 'forward' not in vars(layer)


@contextlib.contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _tails(config: Any, sizes: torch.Size) -> Iterator[Tail]:
    """What may follow the head, by the config: with the factors and bounds that it states, and without."""
    text = config.get_text_config() if hasattr(config, 'get_text_config') else config
    values = {name: getattr(text, name, None) for name in (*_FACTORS, *_CAPS)}
    stated: dict[str, Any] = {name: value for name, value in values.items() if _is_number(value)}
    scales = [1.0, *(value ** _FACTORS[name] for name, value in stated.items() if name in _FACTORS)]
    caps = [None, *(value for name, value in stated.items() if name in _CAPS)]
    return (Tail(sizes, scale, cap) for scale, cap in itertools.product(scales, caps))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _shaped(tail: Tail, z: Tensor) -> Tensor:
    """The logits of some products."""
    rows = LinearLogits(z.new_zeros(1, 1), z.new_zeros(1, 1), scale=tail.scale, softcap=tail.softcap)
    return rows.of_products(z.detach())


def _near(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal up to rounding."""
    if one.shape != other.shape:
        return False
    close = _step(one, other) * float(other.detach().abs().max().clamp(min=1e-6))
    return bool((one.detach() - other.detach()).abs().max() <= close)


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether each of their numbers, small or large, is equal up to rounding."""
    if one.shape != other.shape:
        return False
    close = _step(one, other) * other.detach().abs().clamp(min=1e-6)
    return bool(((one.detach() - other.detach()).abs() <= close).all())


def _step(one: Tensor, other: Tensor) -> float:
    return max(torch.finfo(kind).eps * _ROUNDING.get(kind.itemsize, 4.0) for kind in (one.dtype, other.dtype))


def _leaves(output: Tensor) -> set[int]:
    """The ids of the tensors that take gradients from an output."""
    found, seen, waiting = set(), set(), [output.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, 'variable'):
            found.add(id(node.variable))
        waiting.extend(following for following, _ in node.next_functions)
    return found


def refuse(whose: str, what: str) -> NoReturn:
    """Refuses a model, with the reason."""
    raise ConfigError(f'fused_head: {whose} {what}. {_WAY_OUT}')
