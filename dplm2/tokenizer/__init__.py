"""The structure tokenizer: backbone coordinates to discrete tokens and back."""
