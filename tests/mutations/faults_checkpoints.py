"""Checkpoints as people have them."""

from tests.mutations.mutation import Mutation

ARCHIVES, FITTING = 'composer_kd/teachers/readers/archives.py', 'composer_kd/teachers/fitting.py'
FILES, FIT = 'tests/teachers/readers/test_torch_files.py::', 'tests/teachers/test_fitting.py::'
FETCHED, SHARDED = 'tests/teachers/test_fetching.py::', 'tests/teachers/readers/test_sharded.py::'

MUTATIONS = [
    Mutation(
        'compressed entries are mapped, and read as raw bytes',
        'composer_kd/teachers/readers/torch_files.py',
        'mmap=archive.is_stored or None',
        'mmap=archive.is_zip or None',
        (f'{FILES}test_reads_bit_for_bit_what_torch_loads',),
    ),
    Mutation(
        'no checksum is compared: a flipped bit gives other weights',
        ARCHIVES,
        '            _check_contents(archive, entries, name)\n',
        '',
        (f'{FILES}test_a_flipped_bit_of_a_weight_is_named',),
    ),
    Mutation(
        'a record shorter than its tensor is filled up with what lies behind it',
        ARCHIVES,
        '            _check_storages(archive, entries, name)\n',
        '',
        (f'{FILES}test_a_record_shorter_than_its_tensor',),
    ),
    Mutation(
        'an archive that expands without end fills the memory',
        ARCHIVES,
        'if expands > _LARGEST_SIZE and expands > _LARGEST_RATIO * size:',
        'if expands < 0:',
        (f'{FILES}test_an_archive_that_expands_without_end',),
    ),
    Mutation(
        'the first of several weights that fit is taken without a word',
        FITTING,
        'if any(not _same(entries, target, fitting[0], other) for other in fitting[1:]):',
        'if False:',
        (f'{FIT}test_several_that_fit_must_be_chosen_from',),
    ),
    Mutation(
        'more blocks than the module has are left out without a word',
        FITTING,
        'unexpected = leftovers.paths if problems else leftovers.of_another_architecture()',
        'unexpected = leftovers.paths if problems else []',
        (f'{FIT}test_what_makes_it_another_architecture_is_refused',),
    ),
    Mutation(
        'wrappers in the middle of names are not seen through',
        FITTING,
        "return '.'.join(part for part in name.split('.') if part not in _WRAPPERS)",
        'return name',
        (f'{FIT}test_finds_the_weights_in_every_layout',),
    ),
    Mutation(
        'names of an older version that the module reads itself are refused',
        FITTING,
        '[fit for fit in fits if not fit.problems] or _translated(entries, module, target, fits)',
        '[fit for fit in fits if not fit.problems]',
        (f'{FIT}test_names_of_an_older_version_that_the_module_reads_itself',),
    ),
    Mutation(
        'a copy of the module leaves the names that it could not read out',
        'composer_kd/teachers/translation.py',
        'return not told.unexpected_keys and may_be_missing.issuperset(told.missing_keys)',
        'return not told.unexpected_keys',
        (f'{FIT}test_names_of_an_older_version_that_the_module_reads_itself',),
    ),
    Mutation(
        'the key in an address is shown in messages',
        'composer_kd/teachers/fetching.py',
        "said = f'{type(error).__name__}: {without_credentials(str(error), uri)}'",
        "said = f'{type(error).__name__}: {error}'",
        (f'{FETCHED}test_an_address_with_a_key_is_read_and_never_shown',),
    ),
    Mutation(
        'the key in an address is shown on a progress bar',
        'composer_kd/teachers/fetching.py',
        'progress_bar=sys.stderr.isatty() and not has_credentials(uri)',
        'progress_bar=True',
        (f'{FETCHED}test_an_address_with_a_key_is_read_and_never_shown',),
    ),
    Mutation(
        'the key in an address is written into config.yaml',
        'composer_kd/config/secrets.py',
        'return without_credentials(node) if isinstance(node, str) else node',
        'return node',
        (f'{FETCHED}test_no_file_of_a_run_holds_the_key_in_an_address',),
    ),
    Mutation(
        'a torn sharded checkpoint is not noticed',
        'composer_kd/teachers/readers/sharded.py',
        'if not 0 <= part.offset <= part.offset + part.length <= size:',
        'if False:',
        (f'{SHARDED}test_a_torn_one_is_noticed',),
    ),
    Mutation(
        'objects in a sharded checkpoint are not looked at',
        'composer_kd/teachers/readers/sharded.py',
        'if part.is_object:',
        'if False:',
        (f'{SHARDED}test_nothing_in_it_runs',),
    ),
    Mutation(
        'the index of a sharded checkpoint changes classes of torch, so that objects pass as tensors',
        'composer_kd/teachers/readers/sharded.py',
        'if isinstance(target, type) or',
        'if',
        (f'{SHARDED}test_an_index_changes_nothing_of_torch',),
    ),
]
