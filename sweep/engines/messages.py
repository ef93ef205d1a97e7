"""Messages: a call and its answer, one line of JSON each, the same for every engine.

JSON is the whole contract about values. Tuples come back as lists and keys as strings; nan,
the infinities and every other float come back as they are; what JSON cannot hold is a
TypeError: of ``submit`` if it is an argument, of the call if it is what the call returned.
"""

import json
import traceback
from typing import Any

from sweep.engines import Done, Raised, resolve


def call_message(function: str, *positional: Any, **named: Any) -> str:
    """Return the message that asks for ``module:function(*positional, **named)``."""
    return json.dumps([function, positional, named])


def answer(message: str) -> str:
    """Make the call that a message asks for and return its answer.

    What the call raises is an answer too, in words: exceptions need not survive pickling, and
    no pool has to be ready for them. ``sys.exit()`` in a model ends its call, not the worker.
    """
    function, positional, named = json.loads(message)
    try:
        return json.dumps({"value": resolve(function)(*positional, **named)})
    except (Exception, SystemExit) as error:
        frames = error.__traceback__ and error.__traceback__.tb_next  # without this function's
        trace = "".join(traceback.format_exception(type(error), error, frames))
        return json.dumps({"kind": type(error).__name__, "text": str(error), "trace": trace})


def read_answer(line: str) -> Done | Raised:
    """Return the outcome that an answer tells."""
    fields = json.loads(line)
    return Done(**fields) if "value" in fields else Raised(**fields)
