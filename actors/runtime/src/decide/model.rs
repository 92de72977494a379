//! What holds for the core over random histories, and some histories in full.

use std::time::Duration;

use proptest::prelude::*;
use rand::{SeedableRng, rngs::SmallRng};

use super::*;

pub(super) const CASES: u32 = 2_000;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Start,
    Ready,
    Health(bool),
    Died,
    Hung(bool),
    Timer,
    Stop,
    Restart,
    Drained,
    Unplaced,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let step = prop_oneof![
        2 => Just(Step::Start),
        6 => Just(Step::Ready),
        2 => any::<bool>().prop_map(Step::Health),
        6 => Just(Step::Died),
        1 => any::<bool>().prop_map(Step::Hung),
        4 => Just(Step::Timer),
        1 => Just(Step::Stop),
        1 => Just(Step::Restart),
        2 => Just(Step::Drained),
        1 => Just(Step::Unplaced),
    ];
    prop::collection::vec((0_u64..20_000, step), 1..120)
}

pub(super) fn policies() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![
        Just(RestartPolicy::default()),
        (0_u32..3).prop_map(RestartPolicy::critical),
        (1_u32..4).prop_map(|budget| RestartPolicy { budget, ..RestartPolicy::default() }),
    ]
}

pub(super) fn event(step: &Step, now: Duration) -> Event {
    let by = now + Duration::from_secs(5);
    match step {
        Step::Start => Event::Start,
        Step::Ready => Event::Ready,
        Step::Health(well) => Event::Health { well: *well },
        Step::Died => Event::Died(Cause::new(format!("fault at {now:?}"))),
        Step::Hung(innocent) => Event::Hung { innocent: *innocent },
        Step::Timer => Event::Timer,
        Step::Stop => Event::Stop { by },
        Step::Restart => Event::Restart { by },
        Step::Drained => Event::Drained,
        Step::Unplaced => Event::Unplaced(Cause::new(format!("no thread at {now:?}"))),
    }
}

fn run(
    policy: &RestartPolicy,
    steps: &[(u64, Step)],
    seed: u64,
    mut check: impl FnMut(&Record, &Event, &Record, &Action, Duration),
) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut record = Record::new();
    let mut now = Duration::ZERO;
    let mut placed = false;
    for (gap, step) in steps {
        now += Duration::from_millis(*gap);
        // Only an order to place a runner can fail for want of a thread.
        if matches!(step, Step::Unplaced) && !placed {
            continue;
        }
        let event = event(step, now);
        let before = record.clone();
        let action = decide(&mut record, policy, event.clone(), now, &mut rng);
        placed = action == Action::Place;
        check(&before, &event, &record, &action, now);
    }
}

const fn up(state: State) -> bool {
    matches!(state, State::Starting | State::Ready | State::Degraded)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn generations_and_lines_only_grow_and_each_start_is_a_new_generation(
        policy in policies(), steps in steps(), seed in any::<u64>()
    ) {
        run(&policy, &steps, seed, |before, _, after, action, _| {
            assert!(after.generation >= before.generation);
            assert!(after.line >= before.line);
            let began = after.state == State::Starting
                && (before.state != State::Starting || after.generation > before.generation);
            assert!(!began || after.generation == before.generation + 1 || after.line > before.line);
            assert_eq!(*action == Action::Place, after.line > before.line
                && after.state != State::Stopped && !matches!(action, Action::Escalate(_)));
        });
    }

    #[test]
    fn no_window_holds_more_restarts_than_the_budget(
        policy in policies(), steps in steps(), seed in any::<u64>()
    ) {
        // The model: the times of every death that led to a restart, since the last order.
        let mut restarts: Vec<Duration> = Vec::new();
        run(&policy, &steps, seed, |before, event, after, _, now| {
            match event {
                Event::Restart { .. } | Event::Start => restarts.clear(),
                Event::Died(_) if up(before.state) && before.launched => {
                    let healthy = before.up_since
                        .is_some_and(|since| now.saturating_sub(since) >= policy.healthy);
                    if healthy {
                        restarts.clear();
                    }
                    if !matches!(after.state, State::Failed { .. }) {
                        restarts.push(now);
                    }
                    let within =
                        restarts.iter().filter(|death| now.saturating_sub(**death) < policy.window).count();
                    assert!(within <= policy.budget as usize, "{within} restarts in a window");
                }
                _ => {}
            }
        });
    }

    #[test]
    fn a_spent_service_is_parked_or_escalated_and_tried_once_a_minute(
        policy in policies(), steps in steps(), seed in any::<u64>()
    ) {
        run(&policy, &steps, seed, |before, event, after, action, now| {
            let failed = matches!(after.state, State::Failed { .. })
                && !matches!(before.state, State::Failed { .. });
            if failed && before.launched && *event != Event::Timer {
                match policy.when_spent {
                    WhenSpent::Park => {
                        assert_eq!(after.state, State::Failed { retry_at: Some(now + policy.retry) });
                        assert!(!matches!(action, Action::Escalate(_)));
                    }
                    WhenSpent::Escalate => assert!(matches!(action, Action::Escalate(_))),
                }
            }
            if let (State::Failed { retry_at: Some(at) }, Event::Timer) = (before.state, event) {
                assert_eq!(*action == Action::Place, now >= at && before.homeless);
                assert_eq!(after.state == State::Starting, now >= at);
            }
        });
    }

    #[test]
    fn an_order_to_stop_always_leads_to_stopped(
        policy in policies(), steps in steps(), seed in any::<u64>()
    ) {
        let mut record = Record::new();
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut now = Duration::ZERO;
        for (gap, step) in steps.iter().filter(|(_, step)| !matches!(step, Step::Unplaced)) {
            now += Duration::from_millis(*gap);
            decide(&mut record, &policy, event(step, now), now, &mut rng);
        }
        decide(&mut record, &policy, Event::Stop { by: now }, now, &mut rng);
        assert!(!up(record.state));
        for event in [Event::Timer, Event::Died(Cause::new("late")), Event::Ready] {
            decide(&mut record, &policy, event, now + policy.retry, &mut rng);
        }
        decide(&mut record, &policy, Event::Drained, now, &mut rng);
        assert_eq!(record.state, State::Stopped);
    }

    #[test]
    fn the_first_fault_is_kept_until_health_or_an_order(
        policy in policies(), steps in steps(), seed in any::<u64>()
    ) {
        run(&policy, &steps, seed, |before, event, after, _, now| {
            let Some(first) = &before.cause else { return };
            let healthy = before.up_since.is_some_and(|since| now.saturating_sub(since) >= policy.healthy);
            let ordered = matches!(event, Event::Restart { .. } | Event::Start);
            if !healthy && !ordered {
                assert_eq!(after.cause.as_ref(), Some(first));
            }
        });
    }

    #[test]
    fn a_run_is_repeated_from_its_seed(
        policy in policies(), steps in steps(), seed in any::<u64>()
    ) {
        let mut first = Vec::new();
        run(&policy, &steps, seed, |_, _, after, _, _| first.push((after.state, after.generation)));
        let mut second = Vec::new();
        run(&policy, &steps, seed, |_, _, after, _, _| second.push((after.state, after.generation)));
        assert_eq!(first, second);
    }

    #[test]
    fn back_off_stays_within_its_bound(steps in steps(), seed in any::<u64>()) {
        let policy = RestartPolicy { budget: 1_000, ..RestartPolicy::default() };
        run(&policy, &steps, seed, |before, event, after, _, now| {
            if !up(before.state) {
                return;
            }
            if let (Event::Died(_), State::Backoff { until }) = (event, after.state) {
                assert!(until.saturating_sub(now) <= policy.delay_bound(after.streak));
            }
        });
    }
}

/// Brings a record to `ready` and returns it with its time and generator.
fn ready(policy: &RestartPolicy) -> (Record, SmallRng) {
    let mut record = Record::new();
    let mut rng = SmallRng::seed_from_u64(7);
    assert_eq!(decide(&mut record, policy, Event::Start, Duration::ZERO, &mut rng), Action::Place);
    decide(&mut record, policy, Event::Ready, Duration::ZERO, &mut rng);
    (record, rng)
}

fn die(
    record: &mut Record,
    policy: &RestartPolicy,
    message: &str,
    now: Duration,
    rng: &mut SmallRng,
) -> Action {
    let action = decide(record, policy, Event::Died(Cause::new(message)), now, rng);
    if let State::Backoff { until } = record.state {
        decide(record, policy, Event::Timer, until, rng);
    }
    decide(record, policy, Event::Ready, now, rng);
    action
}

#[test]
fn the_sixth_death_in_a_minute_parks_a_service() {
    let policy = RestartPolicy::default();
    let (mut record, mut rng) = ready(&policy);
    for second in 0..5 {
        die(&mut record, &policy, "again", Duration::from_secs(second), &mut rng);
        assert_eq!(record.state, State::Ready);
    }
    let now = Duration::from_secs(50);
    die(&mut record, &policy, "the last", now, &mut rng);
    assert_eq!(record.state, State::Failed { retry_at: Some(now + policy.retry) });
    assert_eq!(record.cause.as_ref().map(|cause| cause.message.as_str()), Some("again"));
}

#[test]
fn the_window_slides() {
    let policy = RestartPolicy { healthy: Duration::MAX, ..RestartPolicy::default() };
    let (mut record, mut rng) = ready(&policy);
    for death in 0..40 {
        die(&mut record, &policy, "each 13 s", Duration::from_secs(13 * death), &mut rng);
        assert_eq!(record.state, State::Ready);
    }
}

#[test]
fn a_parked_service_that_dies_at_its_try_is_parked_again_at_once() {
    let policy = RestartPolicy { budget: 1, ..RestartPolicy::default() };
    let (mut record, mut rng) = ready(&policy);
    die(&mut record, &policy, "one", Duration::from_secs(1), &mut rng);
    die(&mut record, &policy, "two", Duration::from_secs(2), &mut rng);
    let retry = Duration::from_secs(62);
    decide(&mut record, &policy, Event::Timer, retry, &mut rng);
    assert_eq!(record.state, State::Starting);
    die(&mut record, &policy, "three", retry, &mut rng);
    assert_eq!(record.state, State::Failed { retry_at: Some(retry + policy.retry) });
}

#[test]
fn a_minute_of_health_clears_the_budget() {
    let policy = RestartPolicy { budget: 1, ..RestartPolicy::default() };
    let (mut record, mut rng) = ready(&policy);
    die(&mut record, &policy, "one", Duration::from_secs(1), &mut rng);
    let later = Duration::from_secs(61);
    decide(&mut record, &policy, Event::Health { well: true }, later, &mut rng);
    assert_eq!(record.cause, None);
    die(&mut record, &policy, "two", later, &mut rng);
    assert_eq!(record.state, State::Ready);
}

#[test]
fn the_first_death_of_a_critical_service_escalates() {
    let policy = RestartPolicy::critical(0);
    let (mut record, mut rng) = ready(&policy);
    let action = die(&mut record, &policy, "gone", Duration::from_secs(1), &mut rng);
    assert_eq!(action, Action::Escalate(Cause::new("gone")));
}

#[test]
fn a_critical_service_may_hang_once_in_ten_minutes() {
    let policy = RestartPolicy::critical(0);
    let (mut record, mut rng) = ready(&policy);
    let hung = Event::Hung { innocent: false };
    let mut hang = |record: &mut Record, minute: u64| {
        let now = Duration::from_mins(minute);
        let action = decide(record, &policy, hung.clone(), now, &mut rng);
        decide(record, &policy, Event::Ready, now, &mut rng);
        action
    };
    assert_eq!(hang(&mut record, 1), Action::Place);
    assert_eq!(hang(&mut record, 12), Action::Place);
    assert!(matches!(hang(&mut record, 20), Action::Escalate(_)));
}

#[test]
fn an_ordered_restart_is_no_death() {
    let policy = RestartPolicy::critical(0);
    let (mut record, mut rng) = ready(&policy);
    let by = Duration::from_secs(9);
    decide(&mut record, &policy, Event::Restart { by }, Duration::ZERO, &mut rng);
    assert_eq!(record.state, State::Stopping { then: After::Restart, by });
    decide(&mut record, &policy, Event::Drained, Duration::ZERO, &mut rng);
    assert_eq!((record.state, record.generation), (State::Starting, 2));
    assert_eq!(record.cause, None);
}

#[test]
fn a_failed_first_start_is_left_to_whoever_ordered_it() {
    let policy = RestartPolicy::default();
    let mut record = Record::new();
    let mut rng = SmallRng::seed_from_u64(7);
    decide(&mut record, &policy, Event::Start, Duration::ZERO, &mut rng);
    decide(&mut record, &policy, Event::Died(Cause::new("no")), Duration::ZERO, &mut rng);
    assert_eq!(record.state, State::Failed { retry_at: None });
}
