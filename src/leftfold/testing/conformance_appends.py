"""G1, G2, G3, G5 and G6 as tests: what an append does. See `leftfold.testing.conformance`."""

from __future__ import annotations

from functools import partial

import pytest

from leftfold.errors import AppendConditionFailed, DuplicateEvent, InvalidInput, Unsupported
from leftfold.event import Appended
from leftfold.query import NoneMatch, Query, StreamVersion, select
from leftfold.testing.log import Log, event, together


class G1Atomic:
    """All events of an append are recorded adjacent and in order, or none is."""

    def test_events_of_one_append_are_recorded_in_the_order_given(self, log: Log) -> None:
        appended = log.append(*(event(type=type) for type in "ABCDE"))
        recorded = log.read()
        assert [each.type for each in recorded] == list("ABCDE")
        assert appended.first_position == recorded[0].position
        assert appended.position == recorded[-1].position == log.head()

    def test_an_append_may_span_streams(self, log: Log) -> None:
        events = [event("account-1", "A"), event("account-2", "B"), event("account-1", "C")]
        if not log.store.capabilities.multi_stream_appends:
            with pytest.raises(Unsupported):
                log.append(*events)
            assert log.append(event("account-1")).position == log.head()
            return
        appended = log.append(*events)
        assert log.types() == "ABC"
        assert appended.versions == {"account-1": 2, "account-2": 1}

    def test_a_failed_condition_records_nothing(self, log: Log) -> None:
        log.append(event(type="A"))
        with pytest.raises(AppendConditionFailed):
            log.append(event(type="B"), event(type="C"), conditions=[StreamVersion("account-1", 0)])
        assert log.types() == "A"

    def test_one_refused_event_refuses_all(self, log: Log) -> None:
        log.append(event(type="A"))
        with pytest.raises(InvalidInput):
            log.append(event(type="B"), event(stream=""))
        assert log.types() == "A"

    def test_appends_at_the_same_time_do_not_interleave(self, log: Log) -> None:
        def writer(name: str) -> None:
            for _ in range(10):
                log.append(*(event(f"account-{name}", f"{name}{step}") for step in "123"))

        together(*(lambda name=name: writer(name) for name in "ABCD"))
        types = [each.type for each in log.read()]
        assert len(types) == 4 * 10 * 3
        for start in range(0, len(types), 3):
            name = types[start][0]
            assert types[start : start + 3] == [f"{name}1", f"{name}2", f"{name}3"]


class G2Conditional:
    """Conditions are judged against everything committed before."""

    def test_the_expected_version_holds(self, log: Log) -> None:
        log.append(event(type="A"), event(type="B"))
        log.append(event(type="C"), conditions=[StreamVersion("account-1", 2)])
        assert log.types() == "ABC"

    def test_a_wrong_expected_version_names_both_versions(self, log: Log) -> None:
        log.append(event(type="A"), event(type="B"), event(type="C"))
        for wrong in (0, 2, 4):
            condition = StreamVersion("account-1", wrong)
            with pytest.raises(AppendConditionFailed) as caught:
                log.append(event(type="D"), conditions=[condition])
            assert (caught.value.condition, caught.value.found) == (condition, 3)
            assert f"version {wrong}" in str(caught.value)
            assert "version 3" in str(caught.value)
        assert log.types() == "ABC"

    def test_version_0_means_a_new_stream(self, log: Log) -> None:
        log.append(event("account-1", "A"), conditions=[StreamVersion("account-1", 0)])
        with pytest.raises(AppendConditionFailed):
            log.append(event("account-2", "B"), conditions=[StreamVersion("account-2", 1)])
        assert log.types() == "A"

    def test_a_condition_may_be_about_a_stream_not_written_to(self, log: Log) -> None:
        log.append(event("account-1", "A"))
        log.append(event("account-2", "B"), conditions=[StreamVersion("account-1", 1)])
        with pytest.raises(AppendConditionFailed):
            log.append(event("account-2", "C"), conditions=[StreamVersion("account-1", 0)])
        assert log.types() == "AB"

    def test_all_conditions_must_hold(self, log: Log) -> None:
        log.append(event("account-1", "A"))
        right, wrong = StreamVersion("account-1", 1), StreamVersion("account-2", 1)
        with pytest.raises(AppendConditionFailed) as caught:
            log.append(event("account-3", "B"), conditions=[right, wrong])
        assert caught.value.condition == wrong
        log.append(event("account-3", "C"), conditions=[right, StreamVersion("account-2", 0)])
        assert log.types() == "AC"

    def _matches(self, log: Log, query: Query, after: int = 0) -> bool:
        """Whether NoneMatch finds something; the append itself never matches the query."""
        condition = NoneMatch(query, after)
        head = log.head()
        append = partial(log.append, event("other-1", "Other"), conditions=[condition])
        outcome: object = together(append)[0]
        if isinstance(outcome, Appended):
            assert outcome.position == log.head() > head
            return False
        assert isinstance(outcome, AppendConditionFailed), outcome
        assert outcome.condition == condition
        assert after < outcome.found <= head == log.head()
        return True

    def _boundary_log(self, log: Log) -> bool:
        """Three events to look for; False when the store has to refuse to look, and does."""
        log.append(event("account-1", "A", tags=("course:1", "student:1")))
        log.append(event("account-2", "B", tags=("course:1",)))
        log.append(event("order-1", "C", tags=("student:1",)))
        assert log.types() == "ABC"
        if log.store.capabilities.query_conditions:
            return True
        with pytest.raises(Unsupported):
            log.append(event(), conditions=[NoneMatch(select(tags=["course:1"]))])
        assert log.types() == "ABC"
        return False

    def test_no_event_of_a_stream_or_category(self, log: Log) -> None:
        if not self._boundary_log(log):
            return
        assert self._matches(log, select("account-2"))
        assert not self._matches(log, select("account-3"))
        assert self._matches(log, select(category="order"))
        assert not self._matches(log, select(category="account-1"))

    def test_no_event_of_any_of_the_types(self, log: Log) -> None:
        if not self._boundary_log(log):
            return
        assert self._matches(log, select(types=["C"]))
        assert self._matches(log, select(types=["X", "B"]))
        assert not self._matches(log, select(types=["X", "Y"]))

    def test_no_event_with_all_of_the_tags(self, log: Log) -> None:
        if not self._boundary_log(log):
            return
        assert self._matches(log, select(tags=["course:1"]))
        assert self._matches(log, select(tags=["student:1", "course:1"]))
        assert not self._matches(log, select(tags=["course:1", "student:2"]))
        assert not self._matches(log, select(tags=["course:2"]))

    def test_no_event_with_tags_types_and_stream_together(self, log: Log) -> None:
        if not self._boundary_log(log):
            return
        assert self._matches(log, select("account-1", types=["A"], tags=["course:1"]))
        assert not self._matches(log, select("account-1", types=["B"], tags=["course:1"]))
        assert not self._matches(log, select("account-2", tags=["student:1"]))
        assert not self._matches(log, select(category="order", tags=["course:1"]))

    def test_no_event_of_any_item(self, log: Log) -> None:
        if not self._boundary_log(log):
            return
        none, some = select(types=["X"]), select(tags=["course:1"])
        assert self._matches(log, none | some)
        assert not self._matches(log, none | select(tags=["course:2"]) | select("account-3"))

    def test_events_up_to_after_do_not_count(self, log: Log) -> None:
        if not self._boundary_log(log):
            return
        first, second, third = (each.position for each in log.read())
        assert self._matches(log, select(tags=["course:1"]), after=first)
        assert not self._matches(log, select(tags=["course:1"]), after=second)
        assert self._matches(log, select(category="order"), after=second)
        assert not self._matches(log, select(types=["A", "B", "C"]), after=third)

    def test_a_position_that_the_log_has_not_reached_is_refused(self, log: Log) -> None:
        if not self._boundary_log(log):
            return
        head = log.head()
        with pytest.raises(InvalidInput) as caught:
            log.append(event(), conditions=[NoneMatch(select(tags=["x:1"]), head + 1)])
        assert f"the head is {head}" in str(caught.value)
        assert not self._matches(log, select(tags=["x:1"]), after=head)

    def test_an_append_does_not_conflict_with_itself(self, log: Log) -> None:
        condition = NoneMatch(select(tags=["username:ada"]))
        registered = event("user-1", "A", tags=("username:ada",))
        if not log.store.capabilities.query_conditions:
            with pytest.raises(Unsupported):
                log.append(registered, conditions=[condition])
            assert log.append(registered).position == log.head()
            return
        log.append(registered, conditions=[condition])
        with pytest.raises(AppendConditionFailed):
            log.append(event("user-2", "B", tags=("username:ada",)), conditions=[condition])
        assert log.types() == "A"

    def test_of_many_that_expect_one_version_one_wins(self, log: Log) -> None:
        for version in range(10):
            condition = StreamVersion("account-1", version)
            append = partial(log.append, conditions=[condition])
            results = together(*(partial(append, event()) for _ in range(8)))
            assert sum(isinstance(result, Appended) for result in results) == 1, results
            assert sum(isinstance(result, AppendConditionFailed) for result in results) == 7
        assert [each.version for each in log.read()] == list(range(1, 11))

    def test_of_many_that_claim_one_tag_one_wins(self, log: Log) -> None:
        won = 0
        for round in range(10):
            name = (f"username:{round}",)
            condition = NoneMatch(select(tags=name))
            claims = [event(f"user-{round}.{claim}", tags=name) for claim in range(8)]
            append = partial(log.append, conditions=[condition])
            results = together(*(partial(append, claim) for claim in claims))
            won += sum(isinstance(result, Appended) for result in results)
        assert won == (10 if log.store.capabilities.query_conditions else 0)
        assert len(log.read()) == won
        log.append(event())
        assert len(log.read()) == won + 1


class G3Ordered:
    """Positions strictly increase; versions in a stream are 1..n without holes."""

    def test_versions_count_the_events_of_each_stream(self, log: Log) -> None:
        for stream in ("a-1", "b-1", "a-1", "a-1", "b-1", "c"):
            log.append(event(stream))
        assert [each.version for each in log.read(select("a-1"))] == [1, 2, 3]
        assert [each.version for each in log.read(select("b-1"))] == [1, 2]
        assert [each.version for each in log.read(select("c"))] == [1]

    def test_positions_start_above_0_and_increase(self, log: Log) -> None:
        assert log.head() == 0
        appended = [log.append(event(f"account-{n}"), event(f"account-{n}")) for n in range(5)]
        positions = [each.position for each in log.read()]
        assert positions[0] > 0
        assert positions == sorted(set(positions))
        assert len(positions) == 10
        assert [each.position for each in appended] == positions[1::2]

    def test_refused_appends_leave_no_hole(self, log: Log) -> None:
        for version in range(5):
            log.append(event(), conditions=[StreamVersion("account-1", version)])
            with pytest.raises(AppendConditionFailed):
                log.append(event(), event(), conditions=[StreamVersion("account-1", version)])
        assert [each.version for each in log.read()] == [1, 2, 3, 4, 5]

    def test_threads_leave_no_hole(self, log: Log) -> None:
        def writer() -> None:
            for _ in range(20):
                log.append(event("shared-1"))

        together(*[writer] * 8)
        assert [each.version for each in log.read()] == list(range(1, 161))


class G5Idempotent:
    """An append whose ids are all recorded already returns the first result, writes nothing."""

    def test_a_repeat_returns_the_first_result(self, log: Log) -> None:
        events = [event(type="A"), event(type="B")]
        first = log.append(*events)
        log.append(event(type="C"))
        again = log.append(*events)
        assert again == first
        assert (first.is_repeat, again.is_repeat) == (False, True)
        assert log.types() == "ABC"

    def test_a_repeat_does_not_conflict_with_itself(self, log: Log) -> None:
        mine, condition = event(type="A"), StreamVersion("account-1", 0)
        first = log.append(mine, conditions=[condition])
        assert log.append(mine, conditions=[condition]) == first
        assert log.types() == "A"

    def test_some_known_ids_are_refused(self, log: Log) -> None:
        old, new = event(type="A"), event(type="B")
        log.append(old)
        for events in ([old, new], [new, old]):
            with pytest.raises(DuplicateEvent) as caught:
                log.append(*events)
            assert (caught.value.known, caught.value.unknown) == ((old.id,), (new.id,))
        assert log.types() == "A"

    def test_one_id_twice_is_refused(self, log: Log) -> None:
        twice = event(type="A")
        with pytest.raises(InvalidInput):
            log.append(twice, twice)
        log.append(twice)
        assert log.types() == "A"
        # Also where it is recorded already: such an append was never made.
        with pytest.raises(InvalidInput):
            log.append(twice, twice)
        assert log.types() == "A"

    def test_a_repeat_comes_before_a_condition_that_the_log_has_not_reached(self, log: Log) -> None:
        mine = event(type="A")
        first = log.append(mine)
        if not log.store.capabilities.query_conditions:
            with pytest.raises(Unsupported):
                log.append(mine, conditions=[NoneMatch(select("b-1"), first.position + 5)])
            return
        beyond = NoneMatch(select("b-1"), first.position + 5)
        assert log.append(mine, conditions=[beyond]) == first
        with pytest.raises(InvalidInput):
            log.append(event(type="B"), conditions=[beyond])
        assert log.types() == "A"

    def test_repeats_at_the_same_time_record_one(self, log: Log) -> None:
        for round in range(10):
            events = [event(f"account-{round}"), event(f"account-{round}")]
            results = together(*[partial(log.append, *events)] * 8)
            assert results == [results[0]] * 8
            assert isinstance(results[0], Appended), results[0]
            assert sum(not result.is_repeat for result in results) == 1
        assert len(log.read()) == 20


class G6Durable:
    """What was acknowledged is there when the store is opened again."""

    def test_a_reopened_store_goes_on(self, log: Log) -> None:
        mine = event(type="A", tags=("a:1",))
        first = log.append(mine)
        before = log.read()
        log.reopen()
        assert len(before) == 1
        if not log.store.capabilities.durable:
            assert log.read() == []
            return
        assert log.read() == before
        assert log.append(mine) == first
        log.append(event(type="B"), conditions=[StreamVersion("account-1", 1)])
        assert log.types() == "AB"
