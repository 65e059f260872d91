"""What the contract promises about ids, order and signatures."""

from neartime.contract.events import Envelope, Sequencer
from neartime.contract.ids import is_id, new_id
from neartime.contract.launch import signed_headers, verify


def test_ids_have_one_form_and_sort_by_time() -> None:
    earlier, later = new_id(1_700_000_000.0), new_id(1_700_000_000.002)
    assert is_id(earlier)
    assert earlier < later


def test_events_stored_out_of_order_and_twice_are_handed_on_in_order_and_once() -> None:
    order: Sequencer[int] = Sequencer()
    got = [due for number in (2, 1, 1, 4, 2, 3) for due in order.push(Envelope("w", 1, number), number)]
    assert got == [1, 2, 3, 4]


def test_a_second_attempt_repeats_no_interim_result() -> None:
    order: Sequencer[str] = Sequencer()
    order.push(Envelope("w", 1, 1, index=1), "a")
    order.push(Envelope("w", 1, 2, index=2), "b")
    assert order.push(Envelope("v", 2, 1, index=2), "b") == []
    assert order.push(Envelope("v", 2, 2, index=3), "c") == ["c"]


def test_a_signed_command_holds_for_its_subject_and_can_not_be_played_again() -> None:
    key = "ab" * 32
    headers = signed_headers(key, "worker.a.control", 7, "{}", b"body")
    assert verify(key, "worker.a.control", headers, b"body", after=6) == ("{}", 7)
    assert verify(key, "worker.a.control", headers, b"body", after=7) is None
    assert verify(key, "worker.b.control", headers, b"body", after=6) is None
    assert verify(key, "worker.a.control", headers, b"other", after=6) is None
