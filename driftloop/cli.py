"""The command line (thin)."""


def main() -> int:
    """Placeholder entry until the verbs are wired."""
    return 0
