"""Type every command of README.md and docs/ in a fresh clone, or those of an installed package in a folder of its own.

    python -m benchmarks.documented_commands --where clone --data FOLDER
    python -m benchmarks.documented_commands --where wheel --data FOLDER

FOLDER holds question files (nq.jsonl.gz, hotpotqa.jsonl.gz, ...) and corpus.jsonl.gz. A command is typed as it is
printed, or as `documented_rules.py` says: with options that make it smaller, or with stand-ins for what can't be
downloaded or needs a GPU. Prints one line per command, and a count at the end; exits with 1 if one of them failed.
Needs make, git and PyPI; takes about half an hour.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.documented_rules import FIXTURES, Rule, rule_for

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("igsearch", "make", "python", "pip", "torchrun", "accelerate", "curl", "hf", "vllm", "vf-eval", "openenv")
START = re.compile(rf"(?:[A-Z_]+=\S+ +)*(?:\.venv/bin/)?(?:{'|'.join(PROGRAMS)})\b")
LIMIT = 1800  # seconds for one command
READY = 120  # seconds until a server answers


def pages() -> list[Path]:
    """The pages, in the order in which someone reads them."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]


def documented(page: Path) -> Iterator[str]:
    """The commands of the fenced and indented blocks of a page; of the README also those of its table."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(
        r"(?:^    .*\n)+", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    for block in blocks:
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if START.match(line.strip()):
                yield re.sub(r"\s+#.*", "", line.strip())
    if page.name == "README.md":
        table = text.split("\n## Commands\n")[1].split("\n## ")[0]
        yield from (found for found in re.findall(r"`([^`]+)`", table) if START.match(found))


@dataclass
class Session:
    """A folder in which commands are typed one after another; servers that they start end with the page."""

    folder: Path
    binaries: Path
    data: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MAKE", "VIRTUAL"))}
        return {**outside, "PATH": f"{self.binaries}:{outside['PATH']}", "DATA": str(self.data)}

    def type(self, page: Path, command: str) -> None:
        """Run one command by its rule, and print what came of it."""
        rule = rule_for(command, repository=(self.folder / "pyproject.toml").is_file())
        words = rule.applied(command)
        if rule.reason:
            self.say("not run", page, command, rule.reason)
            return
        for line in rule.before:
            subprocess.run(line, shell=True, cwd=self.folder, env=self.environment(), check=True, capture_output=True)
        began = time.perf_counter()
        log = self.folder / "last-command.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                words, shell=True, cwd=self.folder, env=self.environment(), stdin=subprocess.PIPE if rule.typed else
                subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            if rule.ready:
                self.servers.append(process)
                good = self.answers(rule, process)
            else:
                good = self.ends(rule, process)
        how = "failed" if not good else rule.how
        self.say(
            how,
            page,
            command,
            f"{time.perf_counter() - began:.1f} s" + (f"; {words}" if rule.how != "as printed" else ""),
        )
        if not good:
            print(log.read_text(encoding="utf-8", errors="replace")[-2000:], flush=True)

    def ends(self, rule: Rule, process: subprocess.Popen[bytes]) -> bool:
        try:
            process.communicate(rule.typed.encode() or None, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            stop(process)
            return False
        return process.returncode == 0 and all((self.folder / name).exists() for name in rule.writes)

    def answers(self, rule: Rule, process: subprocess.Popen[bytes]) -> bool:
        end = time.monotonic() + READY
        while time.monotonic() < end and process.poll() is None:
            if subprocess.run(["curl", "-sf", "-m", "2", rule.ready], capture_output=True, check=False).returncode == 0:
                return True
            time.sleep(0.5)
        return False

    def say(self, how: str, page: Path, command: str, note: str) -> None:
        self.outcomes[how] += 1
        print(f"{how:10}  {page.name}: {command}\n            {note}", flush=True)

    def turn_page(self) -> None:
        """End the servers of a page."""
        while self.servers:
            stop(self.servers.pop())


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a command and its children."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def clone(folder: Path, data: Path) -> Session:
    """A clone of the commit that is checked out, without an environment: the first command of the README makes it."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return Session(folder, folder / ".venv" / "bin", data)


def wheel(folder: Path, data: Path) -> Session:
    """An empty folder, and an environment with the wheel and its extra `all`."""
    folder.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(folder / ".venv")], check=True)
    pip = [str(folder / ".venv" / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    copy = folder.parent / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copy)], check=True)
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder.parent), str(copy)], check=True)
    (built,) = folder.parent.glob("igsearch-*.whl")
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "install", *constraints, f"{built}[all]"], check=True)
    return Session(folder, folder / ".venv" / "bin", data)


def main() -> None:
    """Type them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--where", choices=("clone", "wheel"), required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with question files and corpus.jsonl.gz")
    parser.add_argument("--only", default="", help="only commands in which this regular expression is found")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="documented-"))
    session = (clone if args.where == "clone" else wheel)(work / "work", args.data.resolve())
    try:
        for line in FIXTURES:
            subprocess.run(line, shell=True, cwd=session.folder, env=session.environment(), check=True)
        for page in pages():
            for command in dict.fromkeys(documented(page)):
                if re.search(args.only, command):
                    session.type(page, command)
            session.turn_page()
    finally:
        session.turn_page()
        shutil.rmtree(work, ignore_errors=True)
    print(", ".join(f"{count} {how}" for how, count in session.outcomes.most_common()))
    sys.exit(int(session.outcomes["failed"] > 0))


if __name__ == "__main__":
    main()
