"""Looks at pods that serve a steady stream, made by hand."""

from aweigh_api.state import KvTokens, State, StepFit
from aweigh_operator.scaling.decision import Decision, Memory, decide
from aweigh_operator.scaling.look import Look, Pod
from aweigh_operator.scaling.rules import Rules

LOOK_S = 15.0
FIT = StepFit(
    base=0.004,
    prompt_token=2.7e-5,
    row=2e-5,
    kv_token=3e-8,
    drafted_token=0.0,
    samples=512,
    error=0.01,
)


class Service:
    """Pods that share what arrives, and a decision at every look."""

    def __init__(self, pods: int, rules: Rules) -> None:
        self.rules = rules
        self.memory = Memory()
        self.now_s = 1000.0
        self.replicas = pods
        self.born: dict[str, float] = {f"pod-{each}": 0.0 for each in range(pods)}
        self.counted = dict.fromkeys(self.born, 0.0)  # seconds of its share of the stream
        self.start_s = 60.0  # from a pod's creation until it serves
        self.silent: set[str] = set()
        self.repeated: dict[str, State] = {}
        self.starting: set[str] = set()
        self.fit = FIT
        self.unschedulable: set[str] = set()
        self.refused = False  # by the API server: pods that are not there yet

    def look(
        self, requests: float, *, hits: float = 0.5, waiting: int = 0, prompt: int = 1000
    ) -> Decision:
        """15 s later; `requests` arrive per second at all pods together."""
        self.now_s += LOOK_S
        pods = [self._pod(uid, requests, hits, waiting, prompt) for uid in self.born]
        look = Look(now_s=self.now_s, replicas=self.replicas, pods=pods, refused=self.refused)
        self.memory, decision = decide(self.memory, look, self.rules)
        return decision

    def run(self, looks: int, requests: float, **kinds: float) -> Decision:
        """Several looks at the same stream, with the decisions carried out at once."""
        for _ in range(looks):
            decision = self.look(requests, **kinds)  # type: ignore[arg-type]
            self.resize(decision.replicas)
        return decision

    def resize(self, replicas: int) -> None:
        """New pods serve at once, and old ones go, first what does not serve."""
        idle = self.starting | self.unschedulable
        uids = sorted(self.born, key=lambda uid: uid in idle)
        for uid in uids[replicas:]:
            del self.born[uid]
            self.starting.discard(uid)
            self.unschedulable.discard(uid)
        for number in range(len(self.born), replicas):
            uid = f"pod-{number}-{self.now_s:.0f}"
            self.born[uid], self.counted[uid] = self.now_s, 0.0
        self.replicas = replicas

    def _pod(self, uid: str, requests: float, hits: float, waiting: int, prompt: int) -> Pod:
        if uid in self.starting or uid in self.unschedulable:
            age_s = self.now_s - self.born[uid]
            stuck = uid in self.unschedulable
            return Pod(uid=uid, age_s=age_s, ready_for_s=None, unschedulable=stuck)
        serving = len(self.born) - len(self.starting) - len(self.unschedulable)
        self.counted[uid] += LOOK_S * requests / serving
        state = None if uid in self.silent else self._report(uid, hits, waiting, prompt)
        state = self.repeated.get(uid, state)
        serves_s = self.now_s - self.born[uid]
        return Pod(uid=uid, age_s=serves_s + self.start_s, ready_for_s=serves_s, state=state)

    def _report(self, uid: str, hits: float, waiting: int, prompt: int) -> State:
        uptime_s = self.now_s - self.born[uid] + 60
        found = report(uid, self.counted[uid], uptime_s, hits, waiting, prompt)
        return found.model_copy(update={"step_fit": self.fit})


def report(
    uid: str, arrived: float, uptime_s: float, hits: float, waiting: int = 0, prompt: int = 1000
) -> State:
    """What a pod tells after so many requests."""
    rows = int(arrived * 200)
    return State(
        boot_id=uid,
        uptime_s=uptime_s,
        phase="ready",
        running=5,
        waiting=waiting,
        arrived_requests=int(arrived),
        arrived_prompt_tokens=int(arrived * prompt),
        finished_requests=int(arrived),
        finished_output_tokens=rows,
        cached_prompt_tokens=int(arrived * prompt * hits),
        computed_prompt_tokens=int(arrived * prompt * (1 - hits)),
        decode_tokens=rows,
        decoded_rows=rows,
        drafted_tokens=0,
        kv_tokens_read=rows * prompt,
        max_running=256,
        kv_tokens=KvTokens(capacity=700_000, held=5000, cached=100_000, hot=50_000),
        unshared_tokens_per_request=500.0,
        step_fit=FIT,
    )
