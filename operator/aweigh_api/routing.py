"""What a service's router and its pods say to each other beside OpenAI's API.

It counts only under the service's router secret: a pod that gets no such header, or another value,
takes the request as any client's. The router asks over the pods' public port.
"""

from pydantic import BaseModel, ConfigDict

from aweigh_api.state import Phase

SECRET_FILE = "secret"  # the only entry of a service's router secret, and the file's name in pods
SECRET_HEADER = "Aweigh-Router-Secret"  # of a request: what opens all below
# Of a request: hex digest of the client's key; absent: the router has asked for none; zeros:
# likewise, but a pod has taken the request before.
TENANT_HEADER = "Aweigh-Tenant"
ROUTER_HEADER = "Aweigh-Router"  # of a request: which router asks, by a name of its process
ALONE_HEADER = "Aweigh-Alone"  # of a request, with any value: nothing else may run beside it
ROOM_HEADER = "Aweigh-Room"  # of a response: answers that the pod could begin at once now

NO_ROOM = "no_room"  # error code of a 429: the pod has not begun anything

# A comment line of a stream, before the event that it belongs to: the number of the answer, and
# the tokens that came for it since the last such line. Taken in again, all of them give just what
# is out with that event, and what is still held back. `: tokens 0 17,4,1`
TOKENS_COMMENT = ": tokens "

RESUME_FIELD = "aweigh_resume"  # of a request's body: a `Resume`
MAX_RESUMED_BYTES = 4 << 20  # that it may add to the largest body of a client

# In one request; who asks for more is told so before a pod is looked for.
MAX_CHOICES = 8
MAX_PROMPTS = 32

REPORT_PATH = "/router/report"  # GET: a line of JSON, a `Room`, at once and whenever it changes
REPORT_EVERY_S = 5.0  # at the latest

# POST, without a body: places that become free are this router's alone for a while, as one of its
# requests needs more than there are. 204: they are; 409: they are another router's.
KEEP_PATH = "/router/keep"
KEEP_S = 1.5  # short: nothing says that it is not needed any more


class Room(BaseModel):
    """What a pod could take now."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    boot_id: str
    phase: Phase
    room: int  # answers that would begin at once
    running: int  # answers
    yours: int | None = None  # places that answers hold for the router that is told
    revision: str | None = None  # of the model; a stream goes on only where it is the same
    model: str | None = None  # its name in the API; None: an older pod, which does not say


class ResumedAnswer(BaseModel):
    """One of a request's answers, as far as its client has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: list[int]  # named with what the client has; they count as the answer's own
    finished: bool = False  # nothing of it is missing


class Resume(BaseModel):
    """A stream that another pod has begun."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str  # of the reply
    created: int  # likewise
    answers: list[ResumedAnswer]  # one for each prompt and choice, in their order
