"""The first line of content in a text file."""

_READ = 256 * 1024


def first_line(data: bytes) -> bytes:
    """The first line within 256 kB that is neither blank nor a comment (``#``); empty if there is none."""
    lines = data[:_READ].splitlines()
    return next((line for line in lines if line.strip() and not line.startswith(b"#")), b"")
