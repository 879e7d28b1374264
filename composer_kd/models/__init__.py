"""Small models for images."""
