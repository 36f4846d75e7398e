"""The first line of a text file that says something."""

_READ = 256 * 1024


def first_line(data: bytes) -> bytes:
    """The first line that is neither blank nor a comment (``#``), within the first 256 kB; else empty."""
    lines = data[:_READ].splitlines()
    return next((line for line in lines if line.strip() and not line.startswith(b"#")), b"")
