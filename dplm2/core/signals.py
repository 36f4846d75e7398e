"""Signals that ask a job to stop."""

import signal
import threading


def let_jobs_stop_first() -> None:
    """Make this process ignore SIGUSR1, which queues send to a job and to the workflow engine that runs it.

    The engine's job saves its progress and exits by itself; the engine has to wait for that.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, lambda number, frame: None)
