//! The pure core of supervision: `decide(record, policy, event, now, rng) → action`.
//!
//! It knows no actix, no clock and no I/O. Time is a [`Duration`] since the tree was launched and
//! randomness is passed in, so that every run can be repeated from a seed. The state it leaves
//! behind *is* the order: whoever runs the service reads what it should be doing.

use std::{collections::VecDeque, time::Duration};

use rand::Rng;

use crate::{
    cause::{Cause, CauseKind},
    policy::{RestartPolicy, WhenSpent},
};

#[cfg(test)]
mod model;
#[cfg(test)]
mod rule;

/// Where a service stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Known, never started.
    Registered,
    /// An incarnation is being started.
    Starting,
    /// It works.
    Ready,
    /// It works, and says that something is wrong.
    Degraded,
    /// The incarnation drains, at the longest until `by`.
    Stopping { then: After, by: Duration },
    /// It ended as ordered.
    Stopped,
    /// It is dead and will be started at `until`.
    Backoff { until: Duration },
    /// It is dead for good, or until `retry_at`.
    Failed { retry_at: Option<Duration> },
}

/// What follows a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Stop,
    Restart,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Its supervisor orders the first start, or a start after a stop.
    Start,
    /// The incarnation reported ready.
    Ready,
    /// A probe answered: well or not.
    Health { well: bool },
    /// The incarnation died, or its start failed.
    Died(Cause),
    /// The thread did not return from a poll. The innocent share a thread with the service that
    /// hung: they are moved, and it is no death.
    Hung { innocent: bool },
    /// No thread could be had.
    Unplaced(Cause),
    /// The time of a back-off or retry may have come.
    Timer,
    /// Its supervisor, or a person, orders the end.
    Stop { by: Duration },
    /// A person orders a new incarnation.
    Restart { by: Duration },
    /// The drain is over, one way or the other.
    Drained,
}

/// What is to be done beside letting the service's runner see the new state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing.
    None,
    /// Give the service a new runner with a new mailbox (its line number has been bumped).
    Place,
    /// Let the supervisor die of it.
    Escalate(Cause),
}

/// Everything that supervision remembers of one service.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) state: State,
    /// The number of the incarnation; it fences everything that an earlier one began.
    pub(crate) generation: u64,
    /// The number of the runner; it changes where a mailbox could not be kept.
    pub(crate) line: u64,
    /// The first fault since the service was last healthy.
    pub(crate) cause: Option<Cause>,
    /// The newest fault, kept for people until the next one.
    pub(crate) last_fault: Option<Cause>,
    /// When the state was entered.
    pub(crate) since: Duration,
    up_since: Option<Duration>,
    deaths: VecDeque<Duration>,
    streak: u32,
    spent: bool,
    last_hang: Option<Duration>,
    launched: bool,
    /// No thread could be had: there is no runner until one is placed.
    homeless: bool,
}

impl Record {
    pub(crate) const fn new() -> Self {
        Self {
            state: State::Registered,
            generation: 0,
            line: 0,
            cause: None,
            last_fault: None,
            since: Duration::ZERO,
            up_since: None,
            deaths: VecDeque::new(),
            streak: 0,
            spent: false,
            last_hang: None,
            launched: false,
            homeless: false,
        }
    }

    fn enter(&mut self, state: State, now: Duration) {
        self.up_since = match state {
            State::Ready | State::Degraded => self.up_since.or(Some(now)),
            _ => None,
        };
        self.state = state;
        self.since = now;
    }

    fn begin(&mut self, now: Duration) {
        self.generation += 1;
        self.enter(State::Starting, now);
    }

    fn place(&mut self, now: Duration) -> Action {
        self.line += 1;
        self.homeless = false;
        self.begin(now);
        Action::Place
    }

    /// Begins the next incarnation, with a new runner if there is none.
    fn begin_or_place(&mut self, now: Duration) -> Action {
        if self.homeless {
            return self.place(now);
        }
        self.begin(now);
        Action::None
    }

    /// Forgets deaths after a healthy life, or because a person ordered it.
    fn forgive(&mut self) {
        self.deaths.clear();
        self.streak = 0;
        self.spent = false;
        self.cause = None;
    }

    /// Says whether it has been up for so long that its past does not count any more.
    pub(crate) fn is_healthy(&self, policy: &RestartPolicy, now: Duration) -> bool {
        self.up_since.is_some_and(|since| now.saturating_sub(since) >= policy.healthy)
    }

    fn forgive_if_healthy(&mut self, policy: &RestartPolicy, now: Duration) {
        if self.is_healthy(policy, now) && (self.streak > 0 || self.cause.is_some()) {
            self.forgive();
        }
    }

    /// Counts a death and says whether the budget allows it.
    fn count_death(&mut self, policy: &RestartPolicy, now: Duration) -> bool {
        self.deaths.retain(|death| now.saturating_sub(*death) < policy.window);
        self.spent |= self.deaths.len() >= policy.budget as usize;
        if !self.spent {
            self.deaths.push_back(now);
        }
        self.streak = self.streak.saturating_add(1);
        !self.spent
    }
}

/// Decides what follows `event` and leaves the new state in `record`.
///
/// An event that means nothing in the present state changes nothing.
pub(crate) fn decide(
    record: &mut Record,
    policy: &RestartPolicy,
    event: Event,
    now: Duration,
    rng: &mut impl Rng,
) -> Action {
    record.forgive_if_healthy(policy, now);
    match event {
        Event::Start => start(record, now),
        Event::Ready => {
            if record.state == State::Starting {
                record.launched = true;
                record.enter(State::Ready, now);
            }
            Action::None
        }
        Event::Health { well } => {
            match (record.state, well) {
                (State::Ready, false) => record.enter(State::Degraded, now),
                (State::Degraded, true) => record.enter(State::Ready, now),
                _ => {}
            }
            Action::None
        }
        Event::Died(cause) => died(record, policy, cause, now, rng),
        Event::Hung { innocent } => hung(record, policy, innocent, now, rng),
        Event::Unplaced(cause) => unplaced(record, policy, cause, now),
        Event::Timer => timer(record, now),
        Event::Stop { by } => stop(record, by, now),
        Event::Restart { by } => restart(record, by, now),
        Event::Drained => drained(record, now),
    }
}

fn start(record: &mut Record, now: Duration) -> Action {
    match record.state {
        State::Registered | State::Stopped => {
            record.forgive();
            record.launched = false;
            record.place(now)
        }
        _ => Action::None,
    }
}

fn died(
    record: &mut Record,
    policy: &RestartPolicy,
    cause: Cause,
    now: Duration,
    rng: &mut impl Rng,
) -> Action {
    match record.state {
        State::Starting | State::Ready | State::Degraded => {}
        // What dies while it drains has drained.
        State::Stopping { .. } => {
            record.last_fault = Some(cause);
            return drained(record, now);
        }
        _ => return Action::None,
    }
    remember(record, cause);
    if !record.launched {
        // The launch fails as a whole and is rolled back by whoever ordered it.
        record.enter(State::Failed { retry_at: None }, now);
        return Action::None;
    }
    if !record.count_death(policy, now) {
        return spend(record, policy, now);
    }
    match jitter(policy.delay_bound(record.streak), rng) {
        Duration::ZERO => record.begin(now),
        delay => record.enter(State::Backoff { until: now + delay }, now),
    }
    Action::None
}

fn hung(
    record: &mut Record,
    policy: &RestartPolicy,
    innocent: bool,
    now: Duration,
    rng: &mut impl Rng,
) -> Action {
    // The runner is lost with its thread, whatever the state: someone must wait, drain or serve.
    match record.state {
        State::Registered | State::Stopped => return Action::None,
        State::Stopping { then: After::Restart, .. } => return record.place(now),
        State::Stopping { then: After::Stop, .. } => {
            record.line += 1;
            record.generation += 1;
            record.enter(State::Stopped, now);
            return Action::None;
        }
        State::Backoff { .. } | State::Failed { .. } => {
            record.line += 1;
            return Action::Place;
        }
        State::Starting | State::Ready | State::Degraded => {}
    }
    if innocent {
        return record.place(now);
    }
    let before = record.last_hang.replace(now);
    let cause = Cause::of(CauseKind::Hang, "the thread did not return from a poll");
    record.generation += 1;
    record.line += 1;
    if let Some(quiet) = policy.one_hang_per {
        remember(record, cause);
        if before.is_some_and(|before| now.saturating_sub(before) < quiet) {
            return spend(record, policy, now);
        }
        record.begin(now);
        return Action::Place;
    }
    match died(record, policy, cause, now, rng) {
        Action::Escalate(cause) => Action::Escalate(cause),
        _ => Action::Place,
    }
}

fn unplaced(record: &mut Record, policy: &RestartPolicy, cause: Cause, now: Duration) -> Action {
    remember(record, cause);
    record.homeless = true;
    if record.launched {
        return spend(record, policy, now);
    }
    record.enter(State::Failed { retry_at: None }, now);
    Action::None
}

fn timer(record: &mut Record, now: Duration) -> Action {
    match record.state {
        State::Backoff { until: due } | State::Failed { retry_at: Some(due) } if due <= now => {
            record.begin_or_place(now)
        }
        _ => Action::None,
    }
}

fn stop(record: &mut Record, by: Duration, now: Duration) -> Action {
    let then = After::Stop;
    match record.state {
        State::Starting | State::Ready | State::Degraded => {
            record.enter(State::Stopping { then, by }, now);
        }
        // A second order may only shorten the first.
        State::Stopping { by: before, .. } => {
            record.state = State::Stopping { then, by: before.min(by) };
        }
        State::Registered | State::Backoff { .. } | State::Failed { .. } => {
            record.enter(State::Stopped, now);
        }
        State::Stopped => {}
    }
    Action::None
}

fn restart(record: &mut Record, by: Duration, now: Duration) -> Action {
    match record.state {
        State::Starting | State::Ready | State::Degraded => {
            record.forgive();
            record.enter(State::Stopping { then: After::Restart, by }, now);
            Action::None
        }
        State::Backoff { .. } | State::Failed { .. } => {
            record.forgive();
            record.begin_or_place(now)
        }
        State::Registered | State::Stopping { .. } | State::Stopped => Action::None,
    }
}

fn drained(record: &mut Record, now: Duration) -> Action {
    match record.state {
        State::Stopping { then: After::Stop, .. } => record.enter(State::Stopped, now),
        State::Stopping { then: After::Restart, .. } => record.begin(now),
        _ => {}
    }
    Action::None
}

fn remember(record: &mut Record, cause: Cause) {
    record.cause.get_or_insert_with(|| cause.clone());
    record.last_fault = Some(cause);
}

fn spend(record: &mut Record, policy: &RestartPolicy, now: Duration) -> Action {
    record.spent = true;
    match policy.when_spent {
        WhenSpent::Park => {
            record.enter(State::Failed { retry_at: Some(now + policy.retry) }, now);
            Action::None
        }
        WhenSpent::Escalate => {
            record.enter(State::Failed { retry_at: None }, now);
            escalate(record)
        }
    }
}

fn escalate(record: &Record) -> Action {
    record.cause.clone().map_or(Action::None, Action::Escalate)
}

/// Draws a delay between nothing and the bound ("full jitter"); a bound of nothing is nothing.
pub(crate) fn jitter(bound: Duration, rng: &mut impl Rng) -> Duration {
    if bound.is_zero() {
        return bound;
    }
    bound.mul_f64(rng.random::<f64>())
}
