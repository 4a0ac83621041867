"""What a function may be called. OpenAI's rule."""

import string

MAX_NAME = 64
NAME_CHARACTERS = frozenset(string.ascii_letters + string.digits + "_-")
NAME_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
