//! Supervision of a brood of services: start by levels, stop in reverse, restart one. The
//! orchestrator and every supervisor service use this same code.

use std::{sync::Arc, time::Duration};

use futures::{
    StreamExt,
    future::{BoxFuture, LocalBoxFuture},
    stream::FuturesUnordered,
};
use tokio::{task::unconstrained, time::timeout_at};

use crate::{
    cause::{Cause, CauseKind},
    cell::{Cell, Gate, Place, lock},
    decide::{Event, State},
    event::ServiceState,
    registry::{Registry, RegistryError},
    report::{Ending, LaunchError, RestartError, ServiceEnding},
    scope::Scope,
    service::{Service, Starting},
    spec::Entry,
    tree::{ServiceSnapshot, Tree},
};

/// What a supervisor allows a service beyond its own deadline, before it takes its thread for stuck.
const GRACE: Duration = Duration::from_millis(250);
/// What every service gets for its drain, however late it is.
const LEAST_DRAIN: Duration = Duration::from_millis(100);

/// Services under one supervisor.
pub(crate) struct Brood {
    /// In the order of declaration, each with its level.
    members: Vec<Member>,
    depth: usize,
}

struct Member {
    cell: Arc<Cell>,
    /// Keeps the typed part alive, which the cell knows weakly.
    _place: Arc<dyn Place>,
    level: usize,
    needs: Vec<String>,
    children: Option<Arc<Brood>>,
}

impl Brood {
    /// Takes the services of a checked registry into a tree.
    pub(crate) fn adopt(
        registry: Registry,
        tree: &Arc<Tree>,
        parent: Option<&Arc<Cell>>,
    ) -> Result<Arc<Self>, RegistryError> {
        let levels = registry.levels()?;
        let depth = levels.iter().max().map_or(0, |deepest| deepest + 1);
        let mut members = Vec::with_capacity(levels.len());
        for (entry, level) in registry.entries.into_iter().zip(levels) {
            entry.cell.adopt(tree, entry.terms, parent);
            let children = match entry.children {
                Some(own) => {
                    let brood = Self::adopt(own.registry, tree, Some(&entry.cell))?;
                    Some(Arc::clone(own.brood.get_or_init(|| brood)))
                }
                None => None,
            };
            let Entry { cell, place, needs, .. } = entry;
            members.push(Member { cell, _place: place, level, needs, children });
        }
        Ok(Arc::new(Self { members, depth }))
    }

    fn level(&self, level: usize) -> impl DoubleEndedIterator<Item = &Member> {
        self.members.iter().filter(move |member| member.level == level)
    }

    /// Starts all services, level by level. When one does not start, all are stopped again.
    pub(crate) async fn start(&self, tree: &Tree) -> Result<(), LaunchError> {
        for level in 0..self.depth {
            let began = tree.now();
            for member in self.level(level) {
                member.cell.apply(Event::Start);
            }
            if let Err(error) = self.started(level, tree, began).await {
                self.stop(tree, Duration::MAX).await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Waits until a level is up, or the first of it has failed.
    async fn started(&self, level: usize, tree: &Tree, began: Duration) -> Result<(), LaunchError> {
        let mut starts: FuturesUnordered<_> = self
            .level(level)
            .map(async |member| {
                let by = began + member.cell.terms().start_deadline + GRACE;
                let service = Arc::clone(&member.cell.name);
                let started = member.started(tree, by).await;
                started.map_err(|cause| LaunchError::Start { service, cause })
            })
            .collect();
        // Outside of Tokio's budget: one that is spent makes all of thousands be polled again.
        while let Some(started) = unconstrained(starts.next()).await {
            started?;
        }
        Ok(())
    }

    /// Stops all services in the reverse of their start, at the latest at `by` of the tree's time.
    pub(crate) fn stop<'all>(&'all self, tree: &'all Tree, by: Duration) -> BoxFuture<'all, ()> {
        Box::pin(async move {
            for level in (0..self.depth).rev() {
                let began = tree.now();
                for member in self.level(level).rev() {
                    member.order_stop(tree, began, by);
                }
                for member in self.level(level).rev() {
                    member.stopped(tree, began).await;
                    if let Some(children) = &member.children {
                        // No-op where the supervisor's own drain has done it.
                        children.stop(tree, by).await;
                    }
                }
            }
        })
    }

    fn find(&self, name: &str) -> Option<&Member> {
        self.members.iter().find_map(|member| {
            if &*member.cell.name == name {
                return Some(member);
            }
            member.children.as_ref().and_then(|children| children.find(name))
        })
    }

    /// Finds the cell of a service, at any depth.
    #[cfg(feature = "failpoints")]
    pub(crate) fn cell(&self, name: &str) -> Option<&Arc<Cell>> {
        self.find(name).map(|member| &member.cell)
    }

    /// Replaces a service's incarnation on order, and waits for the new one.
    pub(crate) async fn restart(&self, tree: &Tree, name: &str) -> Result<(), RestartError> {
        let member = self.find(name).ok_or_else(|| RestartError::NoSuchService(name.to_owned()))?;
        let cell = &member.cell;
        let before = cell.gate();
        let idle = matches!(
            before.state,
            ServiceState::Registered | ServiceState::Stopping | ServiceState::Stopped
        );
        if idle || tree.is_ending() {
            return Err(RestartError::NotRunning(name.to_owned()));
        }
        let drained = tree.now() + cell.terms().stop_deadline;
        cell.apply(Event::Restart { by: drained });
        let by = drained + cell.terms().start_deadline + GRACE;
        let reached = member
            .reached(tree, by, |gate| gate.generation > before.generation && settled(gate))
            .await;
        match reached.map(|gate| gate.state) {
            Some(ServiceState::Ready | ServiceState::Degraded) => Ok(()),
            _ => Err(RestartError::Failed {
                service: Arc::clone(&cell.name),
                cause: member.last_fault("the new incarnation was not ready in time"),
            }),
        }
    }

    /// Calls `visit` with every cell, parents before children.
    pub(crate) fn visit<'all>(&'all self, visit: &mut impl FnMut(&'all Arc<Cell>)) {
        for member in &self.members {
            visit(&member.cell);
            if let Some(children) = &member.children {
                children.visit(visit);
            }
        }
    }

    /// Lists how services ended, parents before children.
    pub(crate) fn endings(&self) -> Vec<ServiceEnding> {
        let mut endings = Vec::new();
        self.visit(&mut |cell| {
            if let Some((ending, took)) = *lock(&cell.ending) {
                endings.push(ServiceEnding { service: Arc::clone(&cell.name), ending, took });
            }
        });
        endings
    }

    pub(crate) fn snapshot(&self, tree: &Tree) -> Vec<ServiceSnapshot> {
        self.members.iter().map(|member| member.snapshot(tree)).collect()
    }
}

/// Says whether a start has come to an end, good or bad.
fn settled(gate: &Gate) -> bool {
    !matches!(gate.state, ServiceState::Starting | ServiceState::Registered)
}

impl Member {
    /// Waits until the gate is as asked, or returns `None` at `by`.
    async fn reached(
        &self,
        tree: &Tree,
        by: Duration,
        as_asked: impl Fn(&Gate) -> bool,
    ) -> Option<Gate> {
        let gate = self.cell.gate();
        if as_asked(&gate) {
            return Some(gate);
        }
        let mut gate = self.cell.gate.subscribe();
        let waiting = gate.wait_for(as_asked);
        match timeout_at(tree.instant(by), waiting).await {
            Ok(Ok(gate)) => Some(*gate),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    fn last_fault(&self, otherwise: &str) -> Cause {
        self.cell.record().last_fault.unwrap_or_else(|| Cause::new(otherwise))
    }

    async fn started(&self, tree: &Tree, by: Duration) -> Result<(), Cause> {
        match self.reached(tree, by, settled).await.map(|gate| gate.state) {
            Some(ServiceState::Ready | ServiceState::Degraded) => Ok(()),
            Some(_) => Err(self.last_fault("it was stopped while it started")),
            None => {
                // Not even its own deadline fired: the thread is stuck in the start.
                let cause = Cause::of(CauseKind::StartTimeout, "the start blocks its thread");
                self.cell.apply(Event::Died(cause.clone()));
                Err(cause)
            }
        }
    }

    fn order_stop(&self, tree: &Tree, now: Duration, by: Duration) {
        if self.cell.gate().state == ServiceState::Registered {
            return;
        }
        let latest = by.min(tree.stop_by()).max(now + LEAST_DRAIN);
        let by = latest.min(now + self.cell.terms().stop_deadline);
        self.cell.apply(Event::Stop { by });
    }

    async fn stopped(&self, tree: &Tree, began: Duration) {
        if self.cell.gate().state == ServiceState::Registered {
            return;
        }
        let ending = loop {
            if self.cell.is_gone() {
                let forced = self.cell.forced.load(std::sync::atomic::Ordering::Relaxed);
                break if forced { Ending::Forced } else { Ending::Drained };
            }
            let State::Stopping { by, .. } = self.cell.state() else {
                // Stopped, and its runner has not yet let go; or it hangs in an older state.
                let by = tree.now() + GRACE;
                if self.reached(tree, by, |gate| !gate.placed).await.is_none() {
                    break Ending::Abandoned;
                }
                continue;
            };
            let gone = |gate: &Gate| !gate.placed && gate.state == ServiceState::Stopped;
            if self.reached(tree, by + GRACE, gone).await.is_none() {
                // A later order may have moved the deadline; only then is there hope.
                match self.cell.state() {
                    State::Stopping { by: later, .. } if later > by => {}
                    _ => break Ending::Abandoned,
                }
            }
        };
        if ending == Ending::Abandoned {
            tracing::error!(service = %self.cell.name, "left behind: its thread does not answer");
            tree.hosts.lose_thread_of(&self.cell);
            self.cell.apply(Event::Hung { innocent: false });
            self.cell.apply(Event::Stop { by: tree.now() });
        }
        let took = tree.now().saturating_sub(began);
        lock(&self.cell.ending).get_or_insert((ending, took));
    }

    fn snapshot(&self, tree: &Tree) -> ServiceSnapshot {
        use std::sync::atomic::Ordering::Relaxed;
        let record = self.cell.record();
        let forgiven = self.cell.is_healthy(&record, tree.now());
        let counters = &self.cell.counters;
        let next_try = match record.state {
            State::Backoff { until } => Some(until),
            State::Failed { retry_at } => retry_at,
            _ => None,
        };
        ServiceSnapshot {
            name: Arc::clone(&self.cell.name),
            state: record.state.into(),
            generation: record.generation,
            since: tree.wall(record.since),
            critical: self.cell.terms().critical,
            needs: self.needs.clone(),
            cause: record.cause.filter(|_| !forgiven),
            last_fault: record.last_fault,
            next_try: next_try.map(|due| tree.wall(due)),
            health: lock(&self.cell.probed).health(),
            restarts: counters.restarts.load(Relaxed),
            panics: counters.panics.load(Relaxed),
            hangs: counters.hangs.load(Relaxed),
            temporary_children: counters.children.load(Relaxed),
            child_panics: counters.child_panics.load(Relaxed),
            in_flight: counters.in_flight.load(Relaxed),
            bound: self.cell.terms().bound,
            children: self
                .children
                .as_ref()
                .map(|children| children.snapshot(tree))
                .unwrap_or_default(),
        }
    }
}

/// The service that supervises other services; made by [`Spec::supervisor`](crate::Spec).
pub struct Supervisor {
    brood: Option<Arc<Brood>>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Supervisor").finish_non_exhaustive()
    }
}

impl Supervisor {
    pub(crate) const fn new(brood: Option<Arc<Brood>>) -> Self {
        Self { brood }
    }
}

impl Service for Supervisor {
    fn start(&mut self, scope: &Scope<Self>) -> Starting {
        let (Some(brood), Some(tree)) = (self.brood.clone(), scope.0.cell().tree().cloned()) else {
            return Starting::ready();
        };
        Starting::later(async move {
            // An earlier incarnation that died has left its children running.
            brood.stop(&tree, Duration::MAX).await;
            brood.start(&tree).await.map_err(Cause::from)
        })
    }

    fn health(&self) -> crate::Health {
        let mut health = crate::Health::ok();
        if let Some(brood) = &self.brood {
            brood.visit(&mut |cell| {
                let state = cell.gate().state;
                if state != ServiceState::Ready && health.detail.is_none() {
                    let detail = format!("child `{}` is {state}", cell.name);
                    health = crate::Health::degraded(detail);
                }
            });
        }
        health
    }

    fn stop(&mut self, scope: &Scope<Self>) -> LocalBoxFuture<'static, ()> {
        let (Some(brood), Some(tree)) = (self.brood.clone(), scope.0.cell().tree().cloned()) else {
            return Box::pin(std::future::ready(()));
        };
        let by = match scope.0.cell().state() {
            State::Stopping { by, .. } => by,
            _ => Duration::MAX,
        };
        Box::pin(async move { brood.stop(&tree, by).await })
    }
}

impl std::fmt::Debug for Brood {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.members.iter().map(|member| &member.cell.name)).finish()
    }
}
