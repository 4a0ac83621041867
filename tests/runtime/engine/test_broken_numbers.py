"""A request whose numbers break fails alone: nothing of it reaches those that come after it."""

from pathlib import Path

import torch

from aweigh_runtime.engine.messages import Stepped, Submission, Work
from tests.runtime.engine.real import greedy, real_engine
from tests.runtime.model.checkpoints import load_decoder, write_checkpoint

POISON = 77  # a token whose vector is not a number


def test_a_request_that_is_not_a_number_spoils_neither_its_neighbours_nor_its_blocks(
    tmp_path: Path,
) -> None:
    directory = write_checkpoint(tmp_path, tie_word_embeddings=False)
    decoder = load_decoder(directory, max_len=128)
    clean = {id: [10 + id, 20, 30, id] for id in range(4)}

    def asked() -> list[Submission]:
        return [greedy(id, prompt, 20) for id, prompt in clean.items()]

    def run(work: Work) -> list[Stepped]:
        engine.take(work)
        reports = []
        while engine.patience_s == 0:
            reports.append(engine.step())
        return reports

    def texts(reports: list[Stepped]) -> dict[int, list[int]]:
        outputs = [output for report in reports for output in report.outputs]
        return {id: [t for o in outputs if o.id == id for t in o.tokens] for id in clean}

    engine = real_engine(decoder, 12, max_running=8)
    expected = texts(run(Work(asked(), [])))

    decoder.weights["embedding.weight"][POISON] = torch.nan
    engine = real_engine(decoder, 12, max_running=8)
    poisoned = [greedy(100, [*range(1, 20), POISON, *range(20, 40)], 20)]
    poisoned += [greedy(101, [POISON] * 3, 20), greedy(102, [5, POISON], 20)]
    reports = run(Work([*poisoned, *asked()], []))
    assert {f.id for report in reports for f in report.failures} == {100, 101, 102}
    assert texts(reports) == expected
    for _ in range(3):  # all blocks change hands
        assert texts(run(Work(asked(), []))) == expected
    assert not run(Work([greedy(200, [*range(1, 20), 6], 5)], []))[-1].failures
