"""The phases of a move against a model that knows who owns the VM and where it can run."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kvmove.errors import NeedsAttention
from kvmove.migration import phases
from kvmove.migration.phases import Course, HandOver
from kvmove.model.move import Phase


def reachable() -> set[Course]:
    """Every course that steps of the table lead to."""
    seen, todo = set[Course](), [Course()]
    while todo:
        course = todo.pop()
        if course in seen:
            continue
        seen.add(course)
        todo += [phases.enter(course, phase) for phase in Phase if phases.may_enter(course, phase)]
        todo += [phases.hand_over(course, handed) for handed in HandOver if phases.may_hand_over(course, handed)]
    return seen


REACHABLE = sorted(reachable())


def test_a_move_goes_through_its_phases() -> None:
    course = Course()
    for phase in (Phase.COPYING_DISKS, Phase.COPYING_MEMORY, Phase.SWITCHING_OVER):
        course = phases.enter(course, phase)
    for handed in (HandOver.YIELDED, HandOver.COMMITTED):
        course = phases.hand_over(course, handed)
    for phase in (Phase.CLEANING_UP, Phase.COMPLETED):
        course = phases.enter(course, phase)
    assert phases.whereabouts(course, "h1", "h2") == "running on h2"


@pytest.mark.parametrize("course", REACHABLE)
def test_from_everywhere_there_is_a_way_to_an_end(course: Course) -> None:
    todo, seen = [course], set[Course]()
    while todo:
        current = todo.pop()
        if current.phase in phases.ENDED:
            return
        if current not in seen:
            seen.add(current)
            todo += [phases.enter(current, phase) for phase in Phase if phases.may_enter(current, phase)]
            todo += [phases.hand_over(current, to) for to in HandOver if phases.may_hand_over(current, to)]
    pytest.fail(f"{course} leads to no end")


@pytest.mark.parametrize("course", REACHABLE)
def test_an_end_says_who_owns_the_vm(course: Course) -> None:
    if course.phase is Phase.COMPLETED:
        assert phases.source_owns(course) is False
    if course.phase is Phase.ABORTED:
        assert phases.source_owns(course) is True
    if course.phase in phases.ENDED:
        assert not any(phases.may_enter(course, phase) for phase in Phase)
        assert not any(phases.may_hand_over(course, handed) for handed in HandOver)


@pytest.mark.parametrize("course", REACHABLE)
def test_a_failure_leads_where_the_table_says(course: Course) -> None:
    if course.phase in phases.ENDED:
        with pytest.raises(NeedsAttention):
            phases.after_failure(course)
        return
    after = phases.after_failure(course)
    assert after is course.phase or phases.may_enter(course, after)
    match course.handed:
        case HandOver.HELD | HandOver.RETURNED:
            assert (after, phases.outcome_of_failure(course)) == (Phase.ABORTING, Phase.ABORTED)
        case HandOver.YIELDED:
            assert (after, phases.outcome_of_failure(course)) == (Phase.IN_DOUBT, Phase.IN_DOUBT)
        case HandOver.COMMITTED:
            assert (after, phases.outcome_of_failure(course)) == (course.phase, Phase.COMPLETED)


@pytest.mark.parametrize("course", REACHABLE)
def test_the_words_name_the_hosts_that_can_have_the_vm(course: Course) -> None:
    said = phases.whereabouts(course, "h1", "h2")
    owns = phases.source_owns(course)
    if owns is None and course.phase is not Phase.LOST:
        assert "h1" in said and "h2" in said
    elif owns is not None:
        assert ("h1" in said, "h2" in said) == (owns, not owns)
    if "running on" in said and "not running" not in said:
        assert owns is ("h1" in said)


@pytest.mark.parametrize("course", REACHABLE)
def test_a_move_can_be_called_off_only_before_the_source_yields(course: Course) -> None:
    if phases.may_cancel(course):
        assert course.handed is HandOver.HELD
        assert phases.after_failure(course) is Phase.ABORTING
    elif course.handed is HandOver.HELD:
        assert course.phase in {Phase.ABORTING, Phase.ABORTED, Phase.LOST}


def test_what_cannot_come_next_is_refused_in_words() -> None:
    with pytest.raises(NeedsAttention, match="a move that is preparing cannot be completed next"):
        phases.enter(Course(), Phase.COMPLETED)
    with pytest.raises(NeedsAttention, match="switching-over \\(yielded\\) cannot become held"):
        phases.hand_over(Course(Phase.SWITCHING_OVER, HandOver.YIELDED), HandOver.HELD)


class OneMove(RuleBasedStateMachine):
    """An agent that follows the table, a registry that answers or not, an agent that dies. The model is the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.course = Course()
        self.owner = "source"  # in the registry
        self.ticket_is_out = False
        self.destination_ran = False

    @property
    def _waits_for_registry(self) -> bool:
        return self.course.handed is HandOver.YIELDED and self.course.phase is not Phase.LOST

    @precondition(lambda self: self.course.phase in {Phase.PREPARING, Phase.COPYING_DISKS, Phase.COPYING_MEMORY})
    @rule(disks=st.booleans())
    def next_phase(self, disks: bool) -> None:
        order = {
            Phase.PREPARING: Phase.COPYING_DISKS if disks else Phase.COPYING_MEMORY,
            Phase.COPYING_DISKS: Phase.COPYING_MEMORY,
            Phase.COPYING_MEMORY: Phase.SWITCHING_OVER,
        }
        self.course = phases.enter(self.course, order[self.course.phase])

    @precondition(lambda self: self.course == Course(Phase.SWITCHING_OVER, HandOver.HELD))
    @rule()
    def the_source_yields(self) -> None:
        self.course = phases.hand_over(self.course, HandOver.YIELDED)
        self.ticket_is_out = True

    @precondition(lambda self: self.ticket_is_out and self.owner == "source")
    @rule()
    def the_destination_commits_unseen(self) -> None:
        self.owner = "destination"

    @precondition(lambda self: self._waits_for_registry)
    @rule(answers=st.booleans(), abort=st.booleans())
    def the_source_asks_the_registry(self, answers: bool, abort: bool) -> None:
        if not answers:
            self._fail()
            return
        if self.owner == "source" and abort:
            self.owner, self.ticket_is_out = "source again", False
        if self.owner == "source":
            if self.course.phase is Phase.IN_DOUBT:
                self.course = phases.enter(self.course, Phase.SWITCHING_OVER)
        else:
            won = HandOver.COMMITTED if self.owner == "destination" else HandOver.RETURNED
            self.course = phases.hand_over(self.course, won)

    @precondition(lambda self: self.course == Course(Phase.SWITCHING_OVER, HandOver.COMMITTED))
    @rule(runs=st.booleans())
    def the_destination_tells(self, runs: bool) -> None:
        if runs:
            self.destination_ran = True
            self.course = phases.enter(self.course, Phase.CLEANING_UP)
        else:
            self.owner = "source again"
            self.course = phases.hand_over(self.course, HandOver.RETURNED)

    @precondition(lambda self: self.course.phase is Phase.CLEANING_UP)
    @rule()
    def clean(self) -> None:
        self.course = phases.enter(self.course, Phase.COMPLETED)

    @precondition(lambda self: self.course.phase is Phase.ABORTING)
    @rule(registry_answers=st.booleans())
    def undone(self, registry_answers: bool) -> None:
        if self.course.handed is HandOver.HELD and registry_answers:
            self.course = phases.hand_over(self.course, HandOver.RETURNED)
        self.course = phases.enter(self.course, Phase.ABORTED)

    @precondition(lambda self: phases.may_cancel(self.course))
    @rule()
    def cancel(self) -> None:
        self.course = phases.enter(self.course, Phase.ABORTING)

    @precondition(lambda self: self.course.phase not in phases.ENDED)
    @rule()
    def a_step_fails_or_the_agent_starts_again(self) -> None:
        self._fail()

    @precondition(lambda self: self.course.phase in phases.ENDED)
    @rule(phase=st.sampled_from(Phase))
    def nothing_follows_an_end(self, phase: Phase) -> None:
        with pytest.raises(NeedsAttention):
            phases.enter(self.course, phase)

    def _fail(self) -> None:
        after = phases.after_failure(self.course)
        if after is not self.course.phase:
            self.course = phases.enter(self.course, after)

    @invariant()
    def the_course_tells_the_truth(self) -> None:
        owns = phases.source_owns(self.course)
        if owns is not None:
            assert owns is (self.owner != "destination")
        if self.course.phase in {Phase.ABORTING, Phase.ABORTED}:
            assert self.owner != "destination" and not self.destination_ran, "the source would run a VM it gave away"
        if self.course.phase is Phase.COMPLETED:
            assert self.owner == "destination" and self.destination_ran
        if self.destination_ran:
            assert not phases.may_enter(self.course, Phase.ABORTING)


TestOneMove = OneMove.TestCase
TestOneMove.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
