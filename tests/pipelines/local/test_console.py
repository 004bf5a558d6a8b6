import io

from pipelines.local.console import Console

KFP_LINES = """05:00:00.000 - INFO - Executing task 'train'
    [KFP Executor 2026-11-24 05:00:00,000 INFO]: Looking for component `train`
    [train] started
    train xl:  10%|#    | 10/100 [00:01<00:09, 10.0 steps/s]
    train xl:  20%|##   | 20/100 [00:02<00:08, 10.0 steps/s]
    WARNING some.library: noise
    [train] finished in 10.0 s
"""


class Terminal(io.StringIO):
    def __init__(self, live):
        super().__init__()
        self.live = live

    def isatty(self):
        return self.live


def shown(tmp_path, text, *, live=False):
    terminal = Terminal(live)
    console = Console(terminal, tmp_path / "log", ["prepare_data", "train"])
    for start in range(0, len(text), 7):  # kfp prints in pieces
        console.write(text[start : start + 7])
    return console, terminal


def test_only_the_steps_own_lines_are_shown_and_all_but_bars_are_logged(tmp_path):
    console, terminal = shown(tmp_path, KFP_LINES)
    assert terminal.getvalue().splitlines() == [
        " 2/2 train             started",
        " 2/2 train             finished in 10.0 s",
    ]
    console.close()
    log = (tmp_path / "log").read_text()
    assert "Looking for component" in log
    assert "noise" in log
    assert "10/100" not in log


def test_on_a_terminal_bars_are_redrawn_in_place_and_cleared_before_a_line(tmp_path):
    _, terminal = shown(tmp_path, KFP_LINES, live=True)
    text = terminal.getvalue()
    assert text.count("\r\x1b[Ktrain xl:") == 2
    assert "steps/s]\r\x1b[K 2/2 train             finished" in text


def test_an_error_line_gives_the_message_and_the_exit_status(tmp_path):
    console, _ = shown(tmp_path, "    error: x must be > 0, got 0\n")
    assert (console.error, console.exit_status) == ("x must be > 0, got 0", 2)
    console, _ = shown(tmp_path, "    diverged: training diverged in step 3\n")
    assert (console.error, console.exit_status) == ("training diverged in step 3", 3)
    console, _ = shown(tmp_path, "    ended: told to end (SIGTERM): step 3 of 9 is saved in x\n")
    assert (console.error, console.exit_status) == ("told to end (SIGTERM): step 3 of 9 is saved in x", 143)
    console, _ = shown(tmp_path, "    Traceback (most recent call last):\n    ZeroDivisionError\n")
    assert (console.error, console.exit_status) == (None, 1)
    assert console.tail(1) == "ZeroDivisionError"
