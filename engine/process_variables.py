"""The variables that `torchrun` sets for each of several processes, checked before anybody waits for anybody."""

from collections.abc import Mapping

from structures.wording import show_value

NUMBERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")
VARIABLES = (*NUMBERS, "MASTER_ADDR")


def read_process_variables(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """Number of processes, index of this one among all, and among those of its machine.

    One process where nothing is set; an empty variable counts as not set. Schedulers and old shells leave some of them
    behind, and a wrong one makes processes wait for others that do not exist.

    Args:
        environment: variables and their values.

    Raises:
        ValueError: some are missing, are no numbers, or contradict each other.
    """
    given = {name: environment[name].strip() for name in VARIABLES if environment.get(name, "").strip()}
    numbers = {name: _number(name, given[name]) for name in NUMBERS if name in given}
    size, rank, local_rank = (numbers.get(name) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    if size is None or size == 1:
        for name, value in (("RANK", rank), ("LOCAL_RANK", local_rank)):
            if value:
                count = "WORLD_SIZE is not set" if size is None else "WORLD_SIZE=1"
                raise ValueError(f"{name}={value}, but {count}. {_way_out(size)}")
        return 1, 0, 0
    if size == 0:
        raise ValueError(f"WORLD_SIZE=0: expected the number of processes. {_way_out(size)}")
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise ValueError(f"WORLD_SIZE={size}, but {', '.join(missing)} not set. {_way_out(size)}")
    assert rank is not None  # none is missing
    assert local_rank is not None
    if rank >= size:
        raise ValueError(f"RANK={rank} must be below WORLD_SIZE={size}: ranks count from 0. {_way_out(size)}")
    if local_rank > rank:
        raise ValueError(f"LOCAL_RANK={local_rank} must not be above RANK={rank}. {_way_out(size)}")
    if not 0 < numbers["MASTER_PORT"] < 2**16:
        raise ValueError(f"MASTER_PORT={numbers['MASTER_PORT']}: expected a port from 1 to 65535. {_way_out(size)}")
    return size, rank, local_rank


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f"environment variable {name}={show_value(text)}: expected a whole number. {_way_out(None)}")
    return int(text)


def _way_out(size: int | None) -> str:
    several = size if size and size > 1 else 2
    return (
        f"For several processes, `torchrun --nproc_per_node={several} main.py ...` sets all of {', '.join(VARIABLES)}; "
        f"for a single one: `unset {' '.join(VARIABLES)}`"
    )
