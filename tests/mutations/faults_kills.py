"""A kill, a signal or a damaged folder at any moment."""

from tests.mutations.mutation import Mutation

KILLED = 'tests/runs/test_killed.py::test_killed_at_a_moment_of_choice'
ENDING = 'tests/runs/test_ending.py'
FOLDER = 'tests/runs/test_folder.py'
HISTORY = 'tests/callbacks/test_history.py'

MUTATIONS = [
    Mutation(
        'the link stays at an older checkpoint than the newest whole one',
        'composer_kd/runs/resume.py',
        '        mend_latest(folder)\n',
        '        pass\n',
        (KILLED, f'{ENDING}::test_it_goes_on_from_the_newest_whole_checkpoint'),
    ),
    Mutation(
        'a checkpoint whose parts are there in name alone counts as whole',
        'composer_kd/runs/resume.py',
        'return archive.testzip() is None',
        'return bool(archive.namelist())',
        (KILLED, f'{ENDING}::test_it_goes_on_from_the_newest_whole_checkpoint'),
    ),
    Mutation(
        'a damaged checkpoint is not written anew',
        'composer_kd/runs/build.py',
        "        'save_overwrite': True,\n",
        "        'save_overwrite': config.save_overwrite is True,\n",
        (KILLED,),
    ),
    Mutation(
        'the history lacks what was logged before a checkpoint',
        'composer_kd/callbacks/history.py',
        '        if self._stream is not None:\n            self.flush()\n        return {_RUN: self.run_id}',
        '        return {_RUN: self.run_id}',
        (KILLED,),
    ),
    Mutation(
        'the history holds batches after the checkpoint twice',
        'composer_kd/callbacks/history.py',
        "[record for record in records if record['batch'] <= batch] if mine else []",
        'records if mine else []',
        (HISTORY,),
    ),
    Mutation(
        'nobody is told that the history ends too early',
        'composer_kd/callbacks/history.py',
        '    if last < batch - 1:',
        '    if False:',
        (f'{HISTORY}::test_a_record_that_ends_before_the_checkpoint_is_said',),
    ),
    Mutation(
        'a finished run that is started again loses its losses and costs',
        'composer_kd/runs/train.py',
        '    if noted:\n        return noted\n',
        '',
        (f'{FOLDER}::test_a_finished_run_started_again_changes_nothing',),
    ),
    Mutation(
        'two runs write into one folder',
        'composer_kd/runs/folder.py',
        '        lock.acquire(timeout=seconds)',
        '        pass',
        (f'{FOLDER}::test_a_folder_in_use_is_refused',),
    ),
    Mutation(
        'a killed process locks a folder for ever where the system has no locks',
        'composer_kd/runs/folder.py',
        'FileLock(file, fallback_to_soft=False)',
        'FileLock(file)',
        (f'{FOLDER}::test_a_file_system_without_locks_is_said_and_a_kill_there_locks_nobody_out',),
    ),
    Mutation(
        'a folder in the place of a file is found out in mid-run',
        'composer_kd/runs/folder.py',
        'if os.path.lexists(place) and not place.is_file()]',
        'if False]',
        (f'{FOLDER}::test_what_is_no_file_is_said_before_the_run_gets_there',),
    ),
    Mutation(
        'a run that fails in one process waits for the others',
        'composer_kd/runs/ending.py',
        '        trainer.engine.close()',
        '        trainer.close()',
        (f'{ENDING}::test_a_run_that_fails_does_not_wait_for_the_other_processes',),
    ),
    Mutation(
        'a signal while something is built counts as its fault',
        'composer_kd/config/construct.py',
        '        if stopped_by(error) is not None:\n            raise\n',
        '',
        (f'{ENDING}::test_a_signal_while_something_is_built_is_no_fault_of_it',),
    ),
]
