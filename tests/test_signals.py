"""A signal ends waiting at once, and what is waited for otherwise behaves like a call."""

import hashlib
import os
import signal
import threading
import time

import pytest

from scorax.utils import signals


@pytest.mark.parametrize("inside", [True, False])
def test_waiting_returns_and_raises_what_the_work_does(inside):
    def fail():
        raise KeyError("broken")

    def check():
        assert signals.wait_for(lambda: 3) == 3
        with pytest.raises(KeyError, match="broken"):
            signals.wait_for(fail)

    if inside:
        with signals.StopSignal():
            check()
    else:
        check()
    assert not signals.is_busy()


def test_without_anything_to_stop_the_work_is_done_in_place():
    assert signals.wait_for(threading.current_thread) is threading.main_thread()
    with signals.StopSignal():
        assert signals.wait_for(threading.current_thread) is not threading.main_thread()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting_but_not_the_work(number, capfd):
    begun, may_end = threading.Event(), threading.Event()

    def work():
        begun.set()
        may_end.wait(60)

    def send():
        begun.wait(60)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    with signals.StopSignal() as stop:
        sender.start()
        with pytest.raises(signals.Stopped):
            signals.wait_for(work)
        assert stop.received is number and signals.is_busy()
        with pytest.raises(signals.Stopped):  # nothing long begins any more
            signals.wait_for(lambda: pytest.fail("was called"))
    may_end.set()
    sender.join()
    while signals.is_busy():
        time.sleep(0.01)
    assert f"{number.name}: stopping;" in capfd.readouterr().err


def test_another_thread_knows_at_once():
    """While the main thread is busy with one instruction, as it is in a compiled program."""
    seen = []

    def send():
        time.sleep(0.2)
        seen.append((signals.has_arrived(), stop.received))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        seen.append((signals.has_arrived(), stop.received))

    with signals.StopSignal() as stop:
        sender = threading.Thread(target=send)
        sender.start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 5_000_000)  # takes a second or more
        sender.join()
        assert seen == [(False, None), (True, None)] and stop.received is signal.SIGTERM
    assert not signals.has_arrived()


def test_between_two_calls_a_signal_only_sets_the_flag():
    with signals.StopSignal() as stop:
        signals.wait_for(lambda: None)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received is signal.SIGTERM
