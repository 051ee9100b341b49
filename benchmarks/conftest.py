"""Progress while the benchmarks run, and what pytest-benchmark says of the machine."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import pytest
import torch
from tqdm import tqdm

from benchmarks.report import Line
from benchmarks.telling import Tell

LOAD = os.getloadavg()[0]  # before anything runs: what others were doing


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info["cores"] = os.cpu_count()
    machine_info["load"] = LOAD
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()


class Progress:
    """A bar of the benchmarks, with the name of the one that runs."""

    def __init__(self, total: int) -> None:
        self.bar = tqdm(total=total, unit="benchmark")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.bar.set_postfix_str(nodeid.partition("::test_")[2])

    def pytest_runtest_logfinish(self) -> None:
        self.bar.update()

    def pytest_sessionfinish(self) -> None:
        self.bar.close()


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.pluginmanager.register(Progress(len(session.items)))


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """No dots into the bar."""
    return ("passed", "", "") if report.passed and report.when == "call" else None


@pytest.fixture
def tell(benchmark: Any) -> Tell:
    """Put a line into the table."""

    def tell(work: str, **line: Any) -> None:
        benchmark.extra_info.setdefault("lines", []).append(asdict(Line(work, **line)))

    return tell
