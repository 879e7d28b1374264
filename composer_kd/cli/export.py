"""``composer-kd export``."""

from __future__ import annotations

import argparse

from composer_kd.cli.arguments import add_allow_imports
from composer_kd.cli.loading import load_composer

__all__ = ['ABOUT', 'FORMATS', 'HELP', 'add_arguments', 'run']

FORMATS = ('onnx', 'torch-export', 'huggingface', 'state-dict')
"""The names in ``composer_kd.deploy.targets.TARGETS``, repeated here because importing them is slow."""

HELP = 'export the student for another runtime'
ABOUT = """\
Exports the student of a run, without teachers, peers, exits, projectors and other auxiliary modules;
or, with --net, a peer or an exit that was trained beside it:

  onnx           model.onnx, for ONNX Runtime, TensorRT, OpenVINO
  torch-export   model.pt2, which torch.export.load reads without the model's code
  huggingface    a folder for from_pretrained; for models of the transformers library
  state-dict     student.pt, the weights of the bare module

Each format gets its own folder. The exported model is loaded again and compared with the PyTorch model
on real samples; if the outputs differ, the file is deleted. A model card, README.md, describes the
student, its training and results, and how to load it. An earlier export is replaced.

With --push-to-hub the export and its card go to a model on the Hugging Face Hub, which is made if there
is none: public, as is the Hub's default, or with --private. The token is that of HF_TOKEN or of
`huggingface-cli login`. One format goes to one model.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    # RUN comes first in the usage: after --to, argparse would read it as a format.
    options = (
        '[--net NAME] [--out DIR] [--bench FILE] [--license ID] [--push-to-hub NAME [--private]] [--config YAML] '
        '[--allow-imports PACKAGE,PACKAGE]'
    )
    parser.usage = f'%(prog)s RUN --to FORMAT [FORMAT ...] {options}'
    parser.add_argument('run_', metavar='RUN', help='a run folder, a checkpoint, or the YAML of a run')
    parser.add_argument('--to', nargs='+', metavar='FORMAT', required=True, help=', '.join(FORMATS))
    parser.add_argument(
        '--net', metavar='NAME', help='a net trained beside the student, in its place: a peer, or an exit (exit.layer2)'
    )
    parser.add_argument('--out', metavar='DIR', help='the folder for the formats; default: RUN/export, RUN/export/NET')
    parser.add_argument(
        '--bench', metavar='FILE', help='results of `composer-kd bench`, for the speed in the model card'
    )
    parser.add_argument('--license', metavar='ID', help="the licence for the model card, as 'apache-2.0' or 'mit'")
    parser.add_argument('--push-to-hub', metavar='NAME', help="upload it to the Hugging Face Hub, as 'user/name'")
    parser.add_argument('--private', action='store_true', help='with --push-to-hub: a model that is made is private')
    parser.add_argument('--config', metavar='YAML', help='default: the config.yaml beside the checkpoint')
    add_allow_imports(parser)


def run(options: argparse.Namespace) -> None:
    """Exports the student, and lists the written files."""
    import shlex

    from composer_kd.config.yaml_file import require_file
    from composer_kd.errors import ConfigError, nearest

    unknown = [name for name in options.to if name not in FORMATS]
    if unknown:  # reported before torch is imported
        raise ConfigError('\n'.join(f'--to: unknown format {name!r}{nearest(name, FORMATS)}' for name in unknown))
    if options.private and options.push_to_hub is None:
        raise ConfigError('--private: says how --push-to-hub NAME makes a model; give it too')
    if options.push_to_hub is not None and len(set(options.to)) > 1:
        raise ConfigError(
            f'--push-to-hub: one format goes to one model on the Hub, got {" ".join(options.to)}; export the others '
            'under other names'
        )
    if options.config is not None:
        require_file(options.config)
    if options.push_to_hub is not None:
        from composer_kd.deploy.hub import check_access

        check_access(options.push_to_hub)
    load_composer()
    from composer_kd.presentation.console import terminal
    from composer_kd.presentation.units import bytes_text
    from composer_kd.workflows.export.export import export_run

    console = terminal(soft_wrap=True)
    given = {'--net': options.net, '--out': options.out, '--bench': options.bench, '--config': options.config}
    given['--license'] = options.license
    words = [options.run_, '--to', *options.to, *(w for k, v in given.items() if v is not None for w in (k, v))]

    def done(exported: object) -> None:
        from composer_kd.deploy.exporter import Exported

        assert isinstance(exported, Exported)
        files = ', '.join(f'{name} ({bytes_text(size)})' for name, size in exported.files.items())
        console.print(f'{exported.folder}: {files}', highlight=False, markup=False)
        console.print(f'  verified with {exported.verification}', highlight=False, markup=False)

    command = f'composer-kd export {shlex.join(words)}'
    written = export_run(
        options.run_,
        options.to,
        options.out,
        options.bench,
        options.config,
        command,
        done,
        options.net,
        options.license,
    )
    if options.push_to_hub is not None:
        from composer_kd.deploy.hub import push_to_hub

        address = push_to_hub(written[0], options.push_to_hub, options.private or None)
        console.print(f'uploaded: {address}', highlight=False, markup=False)
