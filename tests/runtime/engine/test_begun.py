"""Answers that another engine has begun: they go on as if nothing had happened."""

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from aweigh_runtime.engine.messages import Sampling, Submission
from aweigh_runtime.engine.speculation.ngram import NGram
from aweigh_runtime.engine.speculation.speculator import Speculator
from tests.runtime.engine.hashing import VOCABULARY, Hashing
from tests.runtime.engine.test_run_ahead import KINDS, POOLS, PROMPTS, Traffic, engine, play, told

ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 3),  # steps since the one before
        st.sampled_from(PROMPTS),
        st.integers(1, 20),  # tokens of the answer
        st.sampled_from(KINDS),
        st.sets(st.integers(0, VOCABULARY - 1), max_size=1),  # stop tokens
        st.integers(0, 19),  # tokens of the answer that are there already, if it has more
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=80, deadline=None)
@given(ARRIVALS, POOLS, st.booleans(), st.booleans())
def test_what_comes_after_the_tokens_that_were_there_is_the_undisturbed_rest(
    arrivals: list[tuple[int, list[int], int, Sampling, set[int], int]],
    pool: dict[str, int],
    ahead: bool,
    drafts: bool,
) -> None:
    whole, now = Traffic(), 0
    for id, (gap, prompt, length, sampling, stops, _) in enumerate(arrivals):
        now += gap
        own = structs.replace(sampling, seed=id, seeded=True)
        new = Submission(id, prompt[:], length, list(stops), own)
        whole.submitted.setdefault(now, []).append(new)
    prompts = {id: prompt for id, (_, prompt, *_) in enumerate(arrivals)}
    undisturbed = told(play(engine(Hashing(), ahead=False), whole))

    cuts = {
        id: min(wanted, len(undisturbed[id][0]) - 1) for id, (*_, wanted) in enumerate(arrivals)
    }
    resumed = Traffic(
        {
            step: [
                structs.replace(
                    each,
                    prompt=[*prompts[each.id], *undisturbed[each.id][0][: cuts[each.id]]],
                    begun=cuts[each.id],
                )
                for each in those
            ]
            for step, those in whole.submitted.items()
        }
    )
    drafting = Speculator([NGram()], longest=3) if drafts else None
    running = engine(Hashing(), ahead=ahead, speculator=drafting, **pool)
    rest = told(play(running, resumed))
    assert rest == {
        id: (tokens[cuts[id] :], finish, why) for id, (tokens, finish, why) in undisturbed.items()
    }
