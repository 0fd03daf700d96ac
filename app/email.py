"""What an e-mail address is to this server."""

import re
import unicodedata

from ..events.errors import InvalidArgument
from ..events.limits import EMAIL_CHARS_MAX, EMAIL_TYPED_CHARS_MAX

# HTML's "valid e-mail address", with letters of any language: what nobody could deliver to is
# refused, and nothing else is guessed.
_EMAIL = re.compile(
    r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[^\W_](?:[\w-]{0,61}[^\W_])?(?:\.[^\W_](?:[\w-]{0,61}[^\W_])?)*"
)


def check_email(email: str) -> str:
    """`email` in its one spelling (NFC); `InvalidArgument` if it cannot be an address."""
    # Cut off first: normalizing takes the square of the accents in a row.
    normal = unicodedata.normalize("NFC", email[:EMAIL_TYPED_CHARS_MAX])
    too_long = len(email) > EMAIL_TYPED_CHARS_MAX or len(normal) > EMAIL_CHARS_MAX
    if too_long or not _EMAIL.fullmatch(normal):
        raise InvalidArgument("this is not an e-mail address")
    return normal
