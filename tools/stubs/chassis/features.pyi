# chassis/features.py is rendered; the code that lies in template/ is checked against this.
from typing import Final

PROJECT: Final[str]
PACKAGE: Final[str]
FEATURES: Final[frozenset[str]]
