//! The core against the rule, told anew and as plainly as it goes: what a service does next, from
//! its history. After each event of random histories both say the same.

use proptest::prelude::*;
use rand::{SeedableRng, rngs::SmallRng};

use super::{
    model::{CASES, Step, event, policies, steps},
    *,
};

/// The service as the rule sees it.
#[derive(Debug, Default)]
struct Rule {
    stands: Stands,
    /// It was ready once since its supervisor started it.
    launched: bool,
    /// Since when it has been up.
    up_since: Option<Duration>,
    /// Restarts after deaths, since a healthy life or an order.
    restarts: Vec<Duration>,
    /// It has died beyond its budget, and has not been healthy since.
    spent: bool,
    hung: Option<Duration>,
    homeless: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stands {
    #[default]
    Registered,
    Starting,
    Ready,
    Degraded,
    Draining(After, Duration),
    Stopped,
    /// It is started at a time up to this one.
    Waits(Duration),
    Parked(Option<Duration>),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Deed {
    Nothing,
    Place,
    Escalate,
}

impl Rule {
    fn is_up(&self) -> bool {
        matches!(self.stands, Stands::Starting | Stands::Ready | Stands::Degraded)
    }

    fn clear(&mut self) {
        self.restarts.clear();
        self.spent = false;
    }

    fn stand(&mut self, stands: Stands, now: Duration) {
        self.stands = stands;
        let up = matches!(stands, Stands::Ready | Stands::Degraded);
        self.up_since = up.then(|| self.up_since.unwrap_or(now));
    }

    fn start(&mut self, now: Duration) -> Deed {
        self.stand(Stands::Starting, now);
        if std::mem::take(&mut self.homeless) { Deed::Place } else { Deed::Nothing }
    }

    fn place(&mut self, now: Duration) -> Deed {
        self.homeless = true;
        self.start(now)
    }

    fn step(&mut self, policy: &RestartPolicy, step: &Step, now: Duration) -> Deed {
        if self.up_since.is_some_and(|since| now.saturating_sub(since) >= policy.healthy) {
            self.clear();
        }
        let by = now + Duration::from_secs(5);
        match (self.stands, step) {
            (Stands::Registered | Stands::Stopped, Step::Start) => {
                self.clear();
                self.launched = false;
                return self.place(now);
            }
            (Stands::Starting, Step::Ready) => {
                self.launched = true;
                self.stand(Stands::Ready, now);
            }
            (Stands::Ready, Step::Health(false)) => self.stand(Stands::Degraded, now),
            (Stands::Degraded, Step::Health(true)) => self.stand(Stands::Ready, now),
            (_, Step::Died) if self.is_up() => return self.die(policy, now),
            (_, Step::Hung(innocent)) => return self.hang(policy, *innocent, now),
            (_, Step::Unplaced) => {
                self.homeless = true;
                if self.launched {
                    return self.give_up(policy, now);
                }
                self.stand(Stands::Parked(None), now);
            }
            (Stands::Waits(due) | Stands::Parked(Some(due)), Step::Timer) if due <= now => {
                return self.start(now);
            }
            (Stands::Draining(_, before), Step::Stop) => {
                self.stand(Stands::Draining(After::Stop, before.min(by)), now);
            }
            (_, Step::Stop) if self.is_up() => {
                self.stand(Stands::Draining(After::Stop, by), now);
            }
            (_, Step::Stop) => self.stand(Stands::Stopped, now),
            (_, Step::Restart) if self.is_up() => {
                self.clear();
                self.stand(Stands::Draining(After::Restart, by), now);
            }
            (Stands::Waits(_) | Stands::Parked(_), Step::Restart) => {
                self.clear();
                return self.start(now);
            }
            (Stands::Draining(After::Stop, _), Step::Drained | Step::Died) => {
                self.stand(Stands::Stopped, now);
            }
            (Stands::Draining(After::Restart, _), Step::Drained | Step::Died) => {
                return self.start(now);
            }
            _ => {}
        }
        Deed::Nothing
    }

    fn die(&mut self, policy: &RestartPolicy, now: Duration) -> Deed {
        if !self.launched {
            self.stand(Stands::Parked(None), now);
            return Deed::Nothing;
        }
        let recent = self
            .restarts
            .iter()
            .filter(|before| now.saturating_sub(**before) < policy.window)
            .count();
        if self.spent || recent >= policy.budget as usize {
            return self.give_up(policy, now);
        }
        self.restarts.push(now);
        // At once, then up to 0.1 s, 0.2 s, 0.4 s … 10 s.
        let bound = match self.restarts.len() {
            1 => Duration::ZERO,
            n => Duration::from_millis((100 << (n - 2).min(10)).min(10_000)),
        };
        if bound.is_zero() {
            return self.start(now);
        }
        self.stand(Stands::Waits(now + bound), now);
        Deed::Nothing
    }

    fn hang(&mut self, policy: &RestartPolicy, innocent: bool, now: Duration) -> Deed {
        match self.stands {
            Stands::Registered | Stands::Stopped => return Deed::Nothing,
            Stands::Draining(After::Stop, _) => {
                self.stand(Stands::Stopped, now);
                return Deed::Nothing;
            }
            Stands::Draining(After::Restart, _) => return self.place(now),
            Stands::Waits(_) | Stands::Parked(_) => return Deed::Place,
            Stands::Starting | Stands::Ready | Stands::Degraded if innocent => {
                return self.place(now);
            }
            Stands::Starting | Stands::Ready | Stands::Degraded => {}
        }
        let before = self.hung.replace(now);
        match policy.one_hang_per {
            None if self.die(policy, now) == Deed::Escalate => Deed::Escalate,
            None => Deed::Place,
            Some(quiet) if before.is_some_and(|before| now.saturating_sub(before) < quiet) => {
                self.give_up(policy, now)
            }
            Some(_) => self.place(now),
        }
    }

    fn give_up(&mut self, policy: &RestartPolicy, now: Duration) -> Deed {
        self.spent = true;
        match policy.when_spent {
            WhenSpent::Park => {
                self.stand(Stands::Parked(Some(now + policy.retry)), now);
                Deed::Nothing
            }
            WhenSpent::Escalate => {
                self.stand(Stands::Parked(None), now);
                Deed::Escalate
            }
        }
    }

    /// Takes the drawn delay from the core, if it is one that the rule allows.
    fn agree(&mut self, state: State, now: Duration) {
        if let (Stands::Waits(latest), State::Backoff { until }) = (self.stands, state)
            && (now..=latest).contains(&until)
        {
            self.stands = Stands::Waits(until);
        }
    }
}

/// Tells the core's state in the rule's words.
fn stands(state: State) -> Stands {
    match state {
        State::Registered => Stands::Registered,
        State::Starting => Stands::Starting,
        State::Ready => Stands::Ready,
        State::Degraded => Stands::Degraded,
        State::Stopping { then, by } => Stands::Draining(then, by),
        State::Stopped => Stands::Stopped,
        State::Backoff { until } => Stands::Waits(until),
        State::Failed { retry_at } => Stands::Parked(retry_at),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn the_core_does_what_the_rule_says(
        policy in policies(), steps in steps(), seed in any::<u64>()
    ) {
        let (mut record, mut rule) = (Record::new(), Rule::default());
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut now = Duration::ZERO;
        let mut placed = false;
        for (gap, step) in &steps {
            now += Duration::from_millis(*gap);
            if matches!(step, Step::Unplaced) && !placed {
                continue;
            }
            let action = decide(&mut record, &policy, event(step, now), now, &mut rng);
            let deed = rule.step(&policy, step, now);
            let did = match action {
                Action::None => Deed::Nothing,
                Action::Place => Deed::Place,
                Action::Escalate(_) => Deed::Escalate,
            };
            rule.agree(record.state, now);
            prop_assert_eq!(stands(record.state), rule.stands, "after {:?} at {:?}", step, now);
            prop_assert_eq!(&did, &deed, "after {:?} at {:?}", step, now);
            placed = did == Deed::Place;
        }
    }
}
