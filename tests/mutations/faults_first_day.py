"""What people meet on their first day."""

from tests.mutations.mutation import Mutation

ENDING = 'tests/runs/test_ending.py'
FOLDER = 'tests/runs/test_folder.py'

MUTATIONS = [
    Mutation(
        'a run replaces another one unasked',
        'composer_kd/runs/build.py',
        '(check_unused, check_remote,',
        '(check_remote,',
        (f'{FOLDER}::test_a_run_is_not_replaced_unasked',),
    ),
    Mutation(
        'later checkpoints of a run that is replaced stay',
        'composer_kd/runs/train.py',
        '            clear(folder)',
        '            (folder / METRICS_FILE).unlink(missing_ok=True)',
        (f'{FOLDER}::test_what_is_replaced_leaves_nothing_behind',),
    ),
    Mutation(
        'the settings of a run that replaced another one replace it too',
        'composer_kd/runs/train.py',
        'dataclasses.replace(config, save_overwrite=None)',
        'config',
        (f'{FOLDER}::test_the_settings_of_a_run_that_replaced_another_one_replace_nothing',),
    ),
    Mutation(
        'a report prints a command that is refused',
        'composer_kd/workflows/report/gather.py',
        "*map('='.join, settings.items())])",
        '])',
        ('tests/workflows/report/test_report.py::test_its_commands_make_it_again_beside_what_is_there',),
    ),
    Mutation(
        'Ctrl-C and SIGTERM, as Composer handles them, end a run without a word',
        'composer_kd/runs/ending.py',
        '    except (KeyboardInterrupt, SystemExit) as error:',
        '    except KeyboardInterrupt as error:',
        (f'{ENDING}::test_a_signal_says_where_the_run_stands',),
    ),
    Mutation(
        'SIGTERM is no signal that ends a run',
        'composer_kd/errors.py',
        '_STOPS = (signal.SIGINT, signal.SIGTERM)',
        '_STOPS = (signal.SIGINT,)',
        (f'{ENDING}::test_a_signal_says_where_the_run_stands',),
    ),
    Mutation(
        'loggers do not get the settings',
        'composer_kd/runs/train.py',
        '    _log_settings(trainer, config)\n    trainer.fit()',
        '    trainer.fit()',
        (f'{ENDING}::test_every_logger_gets_the_settings',),
    ),
    Mutation(
        'a progress bar is drawn into log files',
        'composer_kd/runs/build.py',
        ' and is_watched() and not is_notebook()',
        ' and not is_notebook()',
        (f'{ENDING}::test_a_progress_bar_is_for_terminals',),
    ),
    Mutation(
        'a remote folder that cannot be reached is found out in the run',
        'composer_kd/runs/folder.py',
        '        store = maybe_create_object_store_from_uri(uri)\n        assert store is not None\n',
        '        return\n',
        (f'{FOLDER}::test_a_remote_folder_that_cannot_work_is_one_line',),
    ),
    Mutation(
        'rooms must be imported one by one',
        'composer_kd/__init__.py',
        '    if name in _ROOMS:',
        '    if False:',
        ('tests/test_imports.py::test_rooms_need_no_import_of_their_own',),
    ),
    Mutation(
        'a model of transformers without its wrapper is a failure of another library',
        'composer_kd/config/construct.py',
        "    if getattr(component.target, '__init__', None) is HuggingFaceModel.__init__:",
        '    if False:',
        ('tests/runs/test_build.py::test_a_model_of_transformers_without_its_wrapper_is_answered',),
    ),
    Mutation(
        'a window without a batch in a short run is refused',
        'composer_kd/schedules.py',
        '            if self.end.unit == TimeUnit.DURATION:',
        '            if False:',
        ('tests/test_schedules.py::test_warns_when_a_short_run_has_no_batch_in_it',),
    ),
]
