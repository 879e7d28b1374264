"""Checking runs nothing, and nothing that somebody sent runs anything."""

from tests.mutations.mutation import Mutation

KINDS, PATHS, TRUST = 'composer_kd/config/kinds.py', 'composer_kd/config/dotted_paths.py', 'composer_kd/config/trust.py'
TESTS = 'tests/config/test_trust.py::'
NOWHERE = f'{TESTS}test_functions_that_take_code_in_a_string_or_a_file_are_called_nowhere'

MUTATIONS = [
    Mutation(
        'an annotation alone makes a function of torch a builder: the check compiles a string',
        KINDS,
        'return returns is not None and package in BUILDERS',
        'return returns is not None',
        (f'{TESTS}test_the_check_compiles_no_string_for_a_projector',),
    ),
    Mutation(
        'the first package of a dotted path is believed, not the one that the function comes from',
        KINDS,
        "package = origin_of(thing) or name.partition('.')[0]",
        "package = name.partition('.')[0]",
        (f'{NOWHERE}[model]',),
    ),
    Mutation(
        'any class method is taken for a constructor',
        KINDS,
        'return _is_class_of(scope, owner, believed=False) or not factories.isdisjoint(rule.factories)',
        'return True or not factories.isdisjoint(rule.factories)',
        (f'{NOWHERE}[optimizer]',),
    ),
    Mutation(
        'what is private to a library may be named',
        PATHS,
        "if name.startswith('_') and not trust.current().vouches_for(package):",
        "if name.startswith('__') and not trust.current().vouches_for(package):",
        (f'{NOWHERE}[loss]', f'{NOWHERE}[teacher]'),
    ),
    Mutation(
        'a module reached through another package is not asked for',
        PATHS,
        'trust.current().require(path, origin)',
        'trust.current()',
        (f'{TESTS}test_nothing_that_runs_code_is_called_or_imported[callback]',),
    ),
    Mutation(
        'a strange package is imported unasked',
        TRUST,
        'if package in self.allowed:\n            return\n        if home is None',
        'if package:\n            return\n        if home is None',
        (f'{TESTS}test_a_strange_package_is_imported_only_when_it_is_allowed',),
    ),
    Mutation(
        'a record allows itself packages',
        'composer_kd/config/load.py',
        "with trusting(record=source.path.parent, remedy='--allow-imports {package} on the command line'):",
        "with trusting(allowed, source.path.parent, remedy='--allow-imports {package} on the command line'):",
        (f'{TESTS}test_the_record_of_a_run_does_not_allow_itself_anything',),
    ),
    Mutation(
        'a module that lies with a record is imported',
        TRUST,
        'return home.is_relative_to(folder) or folder.is_relative_to(home)',
        'return False',
        (
            f'{TESTS}test_a_module_that_comes_with_a_run_is_not_imported',
            f'{TESTS}test_a_library_that_lies_with_a_record_is_not_imported',
        ),
    ),
    Mutation(
        'the command starts with the working folder on the path, where a file takes the place of a library',
        'composer_kd/cli/main.py',
        '    options = _parsed(arguments)\n',
        '    sys.path.insert(0, __import__("os").getcwd())\n    options = _parsed(arguments)\n',
        (f'{TESTS}test_a_file_in_a_sent_folder_takes_the_place_of_no_library',),
    ),
    Mutation(
        'weights_only=false and trust_remote_code=true in an option of an option are passed on',
        'composer_kd/config/remote_code.py',
        'if key.endswith(name) and runs(value)',
        'if key == name and runs(value)',
        (f'{TESTS}test_options_that_run_what_comes_with_the_weights_need_permission',),
    ),
    Mutation(
        'a function without an annotation is called by the check',
        KINDS,
        "return _is_class_of(scope, kind if kind is not None else getattr(target, '__self__', None))",
        'return True',
        (f'{TESTS}test_a_function_is_called_by_the_check_only_if_it_says_that_it_gives_the_kind',),
    ),
    Mutation(
        'the check calls functions of libraries, which may fetch and unpickle weights',
        KINDS,
        'if package is None or not current().vouches_for(package):\n        return False',
        'if package is None:\n        return False',
        (f'{TESTS}test_the_check_calls_no_function_of_a_library',),
    ),
    Mutation(
        'only the options of models are looked at for what unpickles weights',
        'composer_kd/config/remote_code.py',
        'if package in (None, OURS)',
        "if scope != 'model' or package in (None, OURS)",
        (f'{TESTS}test_weights_of_a_projector_that_bring_code_need_permission',),
    ),
    Mutation(
        'secrets from the environment are written resolved',
        'composer_kd/config/secrets.py',
        '        return node.written\n    if isinstance(node, dict):\n        return {key: hidden',
        '        return str(node)\n    if isinstance(node, dict):\n        return {key: hidden',
        ('tests/config/test_secrets.py::test_a_secret_is_used_and_written_as_its_interpolation',),
    ),
    Mutation(
        'only the text of an interpolation tells that it is a secret, not its value',
        'composer_kd/config/secrets.py',
        'return text not in self._literal and any(',
        'return False and any(',
        ('tests/config/test_secrets.py::test_what_holds_the_value_of_a_secret_is_one',),
    ),
    Mutation(
        'a record sends a value of this machine to an address of its own',
        'composer_kd/config/load.py',
        'for path, written in addresses_with_secrets(source.data)',
        'for path, written in ()',
        ('tests/config/test_secrets.py::test_a_record_sends_nothing_of_this_machine_to_an_address',),
    ),
    Mutation(
        'names with brackets end a table',
        'composer_kd/presentation/console.py',
        'Console(markup=False, highlight',
        'Console(highlight',
        ('tests/runs/test_saved.py::test_a_run_is_shown_as_it_is_called',),
    ),
]
