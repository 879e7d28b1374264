"""The page, made with Gradio."""
