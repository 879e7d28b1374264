"""The fused head: losses of logits that are never whole."""

from tests.mutations.mutation import Mutation

FUSED = 'composer_kd/algorithms/fused_head.py'
CONFLICTS = 'composer_kd/algorithms/fused_conflicts.py'
PASS = 'composer_kd/matches/one_pass.py'
PROBE = 'composer_kd/features/head_probe.py'
TESTS = 'tests/algorithms/test_fused_head.py'
REFUSED = (f'{TESTS}::test_what_cannot_be_is_refused_before_training',)
MUTATIONS = [
    Mutation(
        'microbatches of unequal numbers of tokens weigh the same',
        PASS,
        'value * loss.share * loss.weight',
        'value * loss.weight',
        (f'{TESTS}::test_it_is_the_run_with_whole_logits',),
    ),
    Mutation(
        'padding is compared too',
        FUSED,
        "return RowLoss('task', cross_entropy, layout.mask(micro.task), share, weight)",
        "return RowLoss('task', cross_entropy, None, share, weight)",
        (f'{TESTS}::test_positions_that_do_not_count_are_not_computed',),
    ),
    Mutation(
        'a soft-cap behind the head is forgotten',
        PROBE,
        '_shaped(one, z), outputs.logits)), None)',
        '_shaped(one, z), outputs.logits)), Tail(layer.weight.shape, 1.0, None))',
        (f'{TESTS}::test_it_is_the_run_with_whole_logits', 'tests/features/test_linear_head.py'),
    ),
    Mutation(
        'a bias that is added behind the head is never trained',
        PROBE,
        'if _leaves(outputs.logits) - {id(z)}:',
        'if False:',
        REFUSED,
    ),
    Mutation(
        'the loss of a router is lost',
        PROBE,
        'if shifts is not None:',
        'if False:',
        REFUSED,
    ),
    Mutation(
        'a sum over positions becomes the mean of the sums of chunks',
        FUSED,
        'if term.match.on_logits and not is_mean_over_rows(',
        'if False and not is_mean_over_rows(',
        REFUSED,
    ),
    Mutation(
        'metrics of training batches read the logits of no position',
        CONFLICTS,
        "    refuse_training_metrics(state, 'fused_head', 'read logits, of which there are none')\n",
        '',
        REFUSED,
    ),
    Mutation(
        'the head of a teacher as a layer gives the features of no position',
        FUSED,
        'if pool.head_size(number) is not None:',
        'if False:',
        REFUSED,
    ),
    Mutation(
        'an evaluation has no logits either',
        'composer_kd/features/linear_head.py',
        '    def _end(self, net: Any, args: Any, output: Any) -> None:\n        self._take_off()',
        '    def _end(self, net: Any, args: Any, output: Any) -> None:\n        pass',
        (f'{TESTS}::test_an_evaluation_sees_all_logits',),
    ),
    Mutation(
        'outside the window the loss is that of no position',
        'composer_kd/algorithms/distillation.py',
        'state.loss = self._fused.own_loss(state, micro, precision)',
        'pass',
        (f'{TESTS}::test_settings_mean_the_same',),
    ),
    Mutation(
        'small gradients of hidden states vanish in float16',
        'composer_kd/losses/linear_logits.py',
        '                with full_precision(slope):',
        '                if True:',
        ('tests/losses/test_linear_logits.py::test_small_gradients_survive_float16',),
    ),
    Mutation(
        'sums over many chunks lose their digits in bfloat16',
        'composer_kd/losses/linear_logits.py',
        'torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) if',
        'torch.zeros_like(x) if',
        ('tests/losses/test_linear_logits.py::test_weights_in_bfloat16_have_the_gradient_of_whole_logits',),
    ),
]
