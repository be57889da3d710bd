"""GSM8K: 8,792 school problems in English (Cobbe et al. 2021, arXiv:2110.14168), read from local JSONL files.

Train and test are the published files; "validation" is a tenth of the training file chosen by a hash of the question,
and that tenth is never in "train". Problems come in the file's order, so that "the first 100 test items" means the same
everywhere; the seed plays no part. The calculator marks <<48/2=24>> are taken out of the solutions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thinkling.core.errors import DataError
from thinkling.core.rng import seed_from
from thinkling.data.generated import check_request, question_id
from thinkling.data.rows import read_rows
from thinkling.data.types import Problem

SOURCE = "https://github.com/openai/grade-school-math"
LICENCE = "MIT"
VERIFIER = "number"
LANGUAGE = "en"
PROMPT = "Think step by step. End with a line of #### and the number.\n\n{question}"
EVAL_ONLY_SPLITS = ("test",)

FILES = {"train": "gsm8k_train.jsonl", "validation": "gsm8k_train.jsonl", "test": "gsm8k_test.jsonl"}
PUBLISHED = "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data"
MARK = re.compile(r"<<[^<>]*>>")


def problems(
    split: str, n: int | None, *, level: int | None = None, seed: int = 0, path: str | None = None
) -> list[Problem]:
    """The first `n` problems of a split, or all of them; from `path`, or from $THINKLING_DATA/math/.

    Raises:
        ConfigError: Unknown split, a level, or a negative count.
        DataError: No file (the mend says where to get it), a broken line, or fewer problems than asked for.
    """
    check_request("gsm8k", split, n, level, levels=())
    file = _file(split, path)
    found = list(_read(file, split))
    if n is not None and n > len(found):
        raise DataError(f"the split '{split}' has {len(found)} problems, not {n}", where=str(file), fix="ask for fewer")
    return found[:n]


def _file(split: str, path: str | None) -> Path:
    if path is not None:
        return Path(path).expanduser()
    fetch = f"download {PUBLISHED}/{'test' if split == 'test' else 'train'}.jsonl and give its path"
    folder = os.environ.get("THINKLING_DATA")
    if folder is None:
        raise DataError("GSM8K is not part of this program, and no file of it is named", where="task gsm8k", fix=fetch)
    file = Path(folder).expanduser() / "math" / FILES[split]
    if not file.is_file():
        raise DataError(f"there is no file {file}", where="task gsm8k, folder from THINKLING_DATA", fix=fetch)
    return file


def _read(file: Path, split: str) -> Iterator[Problem]:
    for line, row in read_rows(file):
        problem = _problem(row, f"{file}, line {line}")
        if split == "test" or (split == "validation") == _is_validation(problem.prompt):
            yield problem


def _is_validation(question: str) -> bool:
    return seed_from("gsm8k validation", question) % 10 == 0


def _problem(row: dict[str, Any], where: str) -> Problem:
    """A problem of a row {"question", "answer"} whose answer ends in '#### number'."""
    question, worked = row.get("question"), row.get("answer")
    if not isinstance(question, str) or not isinstance(worked, str) or "####" not in worked:
        raise DataError(
            "this row is not GSM8K's: it wants a 'question' and an 'answer' that ends in '#### number'",
            where=where,
            fix="for questions and answers of your own, use the task 'questions'",
        )
    steps, _, answer = MARK.sub("", worked).rpartition("####")
    answer = answer.strip().replace(",", "")
    return Problem(
        id=question_id("gsm8k", question),
        prompt=question.strip(),
        answer=answer,
        task="gsm8k",
        solution=f"{steps.strip()}\n#### {answer}",
        metadata={"language": LANGUAGE, "licence": LICENCE, "source": where},
    )
