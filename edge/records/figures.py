"""The figures of a run, tick by tick: how many, how late, how long each stage took, and the record."""

from edge.clock import Clock
from edge.grasping import Grasping, Step
from edge.messages import Frame, JointCommand
from edge.records.record import Recorder, Summary, TickRecord, Timings, process_age_s, resident_mb


class Figures:
    """Counts of one run, and its record."""

    def __init__(self, clock: Clock, recorder: Recorder, timings: Timings) -> None:
        self.timings = timings
        self.ticks = self.overruns = self.skipped = self.holds = self.clamped = 0
        self._clock = clock
        self._recorder = recorder
        self._lateness_s = 0.0
        self._first_tick_s = 0.0

    def begin_tick(self, lateness_s: float, overruns: int, skipped: int) -> None:
        """A tick has come, so late; the other two are as the pacer counts them."""
        if not self.ticks:
            self._first_tick_s = process_age_s()
        self.ticks += 1
        self.overruns, self.skipped, self._lateness_s = overruns, skipped, lateness_s
        self.timings.lateness.add(lateness_s)

    def measure(self, step: Step, began_s: float, gated_s: float, written_s: float) -> None:
        """How long the stages of a tick took."""
        self.timings.bus.add(written_s - gated_s)
        if step.began_s is not None:
            self.timings.task.add(gated_s - step.began_s)
        if step.action is not None:
            self.timings.decision.add(written_s - began_s)

    def keep(
        self,
        grasping: Grasping,
        step: Step,
        sent: JointCommand,
        frame: Frame | None,
        hold: str,
        clamped: tuple[str, ...],
        late: JointCommand | None,
    ) -> None:
        """Count and record a tick in which the arm was armed."""
        self.holds += bool(hold)
        self.clamped += bool(clamped)
        grasping.tally.tick(grasping.phase)
        now_s = self._clock.now_s()
        self._recorder.write(
            TickRecord(
                now_s,
                self._lateness_s,
                grasping.phase,
                grasping.state.step,
                hold,
                frame.sequence if frame else -1,
                now_s - frame.captured_at_s if frame else -1.0,
                () if step.action is None else tuple(step.action.tolist()),
                step.wanted,
                sent,
                clamped,
                late,
            )
        )

    def summary(self, grasping: Grasping, stopped_by: str, safe_reason: str) -> Summary:
        """All of it."""
        return Summary(
            *grasping.tally.counts,
            grasps=grasping.tally.grasps,
            stopped_by=stopped_by,
            safe_reason=safe_reason,
            ticks=self.ticks,
            overruns=self.overruns,
            skipped=self.skipped,
            holds=self.holds,
            clamped=self.clamped,
            timing=self.timings.so_far(),
            start_to_first_tick_s=self._first_tick_s,
            resident_mb=resident_mb(),
        )
