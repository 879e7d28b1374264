"""The demo on texts: a BERT is fine-tuned, and students cut out of it learn from few labels, alone and taught by it."""

from composer_kd.workflows.demo.text.results import TextResults, TextSettings
from composer_kd.workflows.demo.text.study import text_demo

__all__ = ['TextResults', 'TextSettings', 'text_demo']
