"""Texts that the student reads and writes, adapters, and vectors of sentence encoders."""

from tests.mutations.mutation import Mutation

OWN, TESTS = 'composer_kd/algorithms/on_policy.py', 'tests/algorithms/test_on_policy.py::'
PROMPTS = 'composer_kd/batches/prompts.py'

MUTATIONS = [
    Mutation(
        'the student learns its own text as if it were right',
        'composer_kd/algorithms/distillation.py',
        'of_task = 0.0 if is_own else self.org_loss_weight',
        'of_task = self.org_loss_weight',
        (f'{TESTS}test_the_loss_is_the_divergence_at_the_tokens_that_the_student_made',),
    ),
    Mutation(
        'the student writes with dropout',
        OWN,
        'with torch.no_grad(), evaluating(net.modules()), precision:',
        'with torch.no_grad(), precision:',
        (f'{TESTS}test_the_most_probable_tokens_are_transformers_greedy_search_without_dropout',),
    ),
    Mutation(
        'tokens after the end of a text are compared',
        PROMPTS,
        'valid, own = torch.cat([mask, made], 1)',
        'valid, own = torch.cat([mask, torch.ones_like(made)], 1)',
        ('tests/batches/test_prompts.py::test_continuations_follow_their_prompts_and_alone_have_labels',),
    ),
    Mutation(
        'each part of a batch is written with the numbers of the first',
        OWN,
        'uniform[some], stop_tokens',
        'uniform[: len(some)], stop_tokens',
        (f'{TESTS}test_microbatches_and_the_side_of_padding_make_no_difference',),
    ),
    Mutation(
        'tokens are sampled that no tokenizer has',
        'composer_kd/features/generation.py',
        'logits = logits[:, :vocabulary].double()',
        'logits = logits.double()',
        (f'{TESTS}test_padded_classes_of_a_head_are_never_sampled',),
    ),
    Mutation(
        'padding counts in the vector of a text',
        'composer_kd/models/sentence_encoder.py',
        'weights = mask[..., None].to(hidden.dtype)',
        'weights = torch.ones_like(mask[..., None]).to(hidden.dtype)',
        ('tests/models/test_sentence_encoder.py::test_vectors_are_pooled_from_the_tokens_of_each_text',),
    ),
    Mutation(
        'padding on the left moves what a decoder reads',
        'composer_kd/data/pairs.py',
        "left = objective == 'seq2seq' and tokenizer",
        'left = tokenizer',
        ('tests/data/test_pairs.py::test_the_loss_of_an_answer_does_not_depend_on_what_it_is_batched_with',),
    ),
    Mutation(
        'the largest number of a vector is taken for a class',
        'composer_kd/bench/predictions.py',
        'no_class = [], 0, True, form.embeds',
        'no_class = [], 0, True, False',
        ('tests/models/test_sentence_encoder.py::test_a_run_from_yaml_is_resumed_and_evaluated',),
    ),
]
