"""A table that is killed, and one that is made in shards, against one made in peace.

    python -m benchmarks.table_interrupted

Makes a small part of ``digits_optimizers`` in one go; again with three ``kill -9``, at a random
moment each; and again as two shards at once. Ends with status 0 if Markdown and CSV are identical
byte for byte, no finished run was made twice, and each shard made its part.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import table_against_commands
from experiments import reproduce
from experiments.common import launch


def command(out_dir: Path, shard: str = "1/1") -> list[str]:
    """A process that makes the small table, or a shard of it."""
    return [sys.executable, "-m", __spec__.name, str(out_dir), shard]


def finished(out_dir: Path) -> dict[str, bytes]:
    """Content of the finished runs."""
    folder = out_dir / "cache"
    return {p.name: p.read_bytes() for p in folder.glob("*.json")} if folder.exists() else {}


def same(a: Path, b: Path) -> bool:
    """Whether two folders hold the same table."""
    files = [f"digits_optimizers{suffix}" for suffix in (".md", ".csv")]
    return all((a / f).read_bytes() == (b / f).read_bytes() for f in files)


def main() -> int:
    """Makes the table in all three ways and compares."""
    rng, good = random.Random(0), True
    with tempfile.TemporaryDirectory() as folder:
        calm, killed, parts = (Path(folder) / name for name in ("calm", "killed", "parts"))
        start = time.perf_counter()
        subprocess.run(command(calm), check=True, capture_output=True)
        whole = time.perf_counter() - start
        for enough in (1, 5, 11):
            process = subprocess.Popen(
                command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while len(finished(killed)) < enough and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, whole / 20))
            process.kill()
            process.wait()
            kept = finished(killed)
            print(f"killed with {len(kept)} of {len(finished(calm))} runs finished")
        subprocess.run(command(killed), check=True, capture_output=True)
        after = finished(killed)
        untouched = all(after[name] == content for name, content in kept.items())
        print(f"finished runs untouched: {untouched}; table identical: {same(calm, killed)}")
        good &= untouched and same(calm, killed)

        shards = [subprocess.Popen(command(parts, f"{i}/2"), text=True) for i in (1, 2)]
        good &= [shard.wait() for shard in shards] == [0, 0]
        print(f"two shards at once, merged: table identical: {same(calm, parts)}")
        good &= same(calm, parts)
    return 0 if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out_dir", nargs="?", type=Path, help="only make the table, there")
    parser.add_argument("shard", nargs="?", default="1/1", help="the part of it, such as 1/2")
    given = parser.parse_args()
    if given.out_dir is None:
        sys.exit(main())
    launch.use_compilation_cache()
    shard = reproduce.parse_shard(given.shard)
    reproduce.execute(table_against_commands.small(), given.out_dir, shard=shard)
