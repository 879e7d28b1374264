"""Packaging of composer_kd. Tool settings live in pyproject.toml, exact versions in constraints.txt."""

import pathlib

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent

install_requires = [
    'mosaicml>=0.32.1,<0.33',  # brings torch, torchvision, torchmetrics, numpy, pillow
    'omegaconf>=2.3,<3',
    'scikit-learn>=1.4,<2',  # its bundled digits are the embedded data set
    'matplotlib>=3.8,<4',
    'rich>=13',  # progress and tables in the terminal
    'filelock>=3',  # one sweep at a time in a folder; torch brings it
    'jinja2>=3.1,<4',  # pages of reports; torch brings it
    'psutil>=5.9',  # memory and processors of the machine; Composer brings it
    'py-cpuinfo>=9',  # the processor's name; Composer brings it
]

extras = {
    'nlp': ['mosaicml[nlp]>=0.32.1,<0.33', 'datasets>=3,<5'],
    'wandb': ['mosaicml[wandb]>=0.32.1,<0.33'],
    'timm': ['timm>=1.0,<2'],
    'onnx': ['onnx>=1.17', 'onnxscript>=0.2', 'onnxruntime>=1.20'],
    'sweep': ['optuna>=4,<6'],
    'energy': ['nvidia-ml-py>=12'],  # energy of NVIDIA GPUs
    'bench': ['torchdistill>=1.1,<2'],
    'dev': [
        'pytest>=8,<9',
        'hypothesis>=6.100,<7',
        'ruff>=0.6',
        'mypy>=1.11',
        'import-linter>=2.0,<3',
        'types-PyYAML',
    ],
}
extras['all'] = sorted({requirement for group in extras.values() for requirement in group})

setup(
    name='composer_kd',
    version='0.1.0',
    description='Knowledge distillation for MosaicML Composer: one object in Trainer(algorithms=[...])',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['composer_kd', 'composer_kd.*']),
    package_data={'': ['py.typed', '*.css', '*.html', '*.j2']},
    python_requires='>=3.10,<3.13',
    install_requires=install_requires,
    extras_require=extras,
    entry_points={'console_scripts': ['composer-kd = composer_kd.cli.main:main']},
    classifiers=[
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
