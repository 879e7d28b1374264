"""The workflow of ``composer-kd serve``: a page on which teacher and students answer side by side.

The tasks load models, answer and take times, and know nothing of the page; :mod:`.page` shows them with Gradio, which
the extra ``serve`` installs.
"""
