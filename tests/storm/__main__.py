"""Makes the tries, prints what came of them, and writes the table of docs/reliability.md."""

import argparse
import json
import platform
import sys
import time
from pathlib import Path

from tests.storm.kind import Outcomes, try_out
from tests.storm.kinds import KINDS

_BEGIN, _END = "<!-- storm -->\n", "<!-- end of storm -->\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--tries", type=int, default=100, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first try, to repeat one alone")
    parser.add_argument("--kind", action="append", choices=[kind.name for kind in KINDS], help="may be repeated")
    parser.add_argument("--table", type=Path, help="write the table into this page, between its marks")
    arguments = parser.parse_args()
    rows = []
    broken = 0
    for kind in KINDS:
        if arguments.kind and kind.name not in arguments.kind:
            continue
        begin, outcomes = time.monotonic(), Outcomes(kind)
        for outcomes in try_out(kind, range(arguments.first, arguments.first + arguments.tries), arguments.seed):
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{kind.name}: {outcomes.num_tries}/{arguments.tries} ")
        seconds = time.monotonic() - begin
        counts = dict(outcomes.counts.most_common())
        print(
            f"{kind.name}: {outcomes.num_tries} tries in {seconds:.0f} s, {len(outcomes.broken)} broken; "
            f"{json.dumps(counts)}",
            flush=True,
        )
        for number, said in outcomes.broken.items():
            print(f"  try {number}: {said}", flush=True)
        broken += len(outcomes.broken)
        rows.append(_row(outcomes))
    if arguments.table:
        _write_table(arguments.table, rows, f"make storm N={arguments.tries} SEED={arguments.seed}")
    return 1 if broken else 0


def _row(outcomes: Outcomes) -> str:
    kind = outcomes.kind
    came = "; ".join(f"{outcome}: {count:,}" for outcome, count in outcomes.counts.most_common())
    return (
        f"| `{kind.name}` | {kind.what} | {kind.promise} | {outcomes.num_tries:,} | {came} | {len(outcomes.broken)} |"
    )


def _write_table(page: Path, rows: list[str], command: str) -> None:
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    table = [
        f"Written by `{command}` ({machine}).",
        "",
        "| kind | what is done | what is promised | tries | what came of them | broken |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    before, begin, rest = page.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert begin and end, f"{page} has no marks for the table"
    page.write_text(before + begin + "\n".join(table) + "\n" + end + after)


if __name__ == "__main__":
    sys.exit(main())
