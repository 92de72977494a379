//! The tree as Prometheus metrics, read from its counters whenever they are collected.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use prometheus::{
    IntCounter, IntCounterVec, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::{cell::Cell, event::ServiceState, supervisor::Brood, tree::Tree};

/// Collects the metrics of a tree.
pub(crate) struct TreeMetrics {
    tree: Arc<Tree>,
    brood: Arc<Brood>,
    state: IntGaugeVec,
    generation: IntGaugeVec,
    in_flight: IntGaugeVec,
    bound: IntGaugeVec,
    temporary_children: IntGaugeVec,
    restarts: IntCounterVec,
    panics: IntCounterVec,
    hangs: IntCounterVec,
    child_panics: IntCounterVec,
    leaked_threads: IntCounter,
}

fn gauge(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}

fn counter(name: &str, help: &str) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, help), &["service"])
}

impl TreeMetrics {
    pub(crate) fn new(tree: Arc<Tree>, brood: Arc<Brood>) -> prometheus::Result<Self> {
        Ok(Self {
            tree,
            brood,
            state: gauge(
                "soma_service_state",
                "1 for the state a service is in",
                &["service", "state"],
            )?,
            generation: gauge(
                "soma_service_generation",
                "Number of the incarnation",
                &["service"],
            )?,
            in_flight: gauge("soma_service_calls_in_flight", "Calls in flight", &["service"])?,
            bound: gauge("soma_service_calls_bound", "Calls that may be in flight", &["service"])?,
            temporary_children: gauge(
                "soma_service_children",
                "Temporary children running",
                &["service"],
            )?,
            restarts: counter("soma_service_restarts_total", "Restarts after a fault")?,
            panics: counter("soma_service_panics_total", "Panics of services")?,
            hangs: counter("soma_service_hangs_total", "Threads of services that hung")?,
            child_panics: counter("soma_service_child_panics_total", "Panics of children")?,
            leaked_threads: IntCounter::new(
                "soma_leaked_threads_total",
                "Threads that hung and were left behind",
            )?,
        })
    }

    fn read(&self, cell: &Cell) {
        let service: &[&str] = &[&cell.name];
        let now = cell.gate();
        for state in ServiceState::ALL {
            let labels: &[&str] = &[&cell.name, state.as_str()];
            self.state.with_label_values(labels).set(i64::from(state == now.state));
        }
        let counters = &cell.counters;
        let bound = u64::try_from(cell.terms().bound).unwrap_or(u64::MAX);
        for (gauge, value) in [
            (&self.generation, now.generation),
            (&self.in_flight, counters.in_flight.load(Relaxed)),
            (&self.bound, bound),
            (&self.temporary_children, counters.children.load(Relaxed)),
        ] {
            gauge.with_label_values(service).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        for (counter, value) in [
            (&self.restarts, counters.restarts.load(Relaxed)),
            (&self.panics, counters.panics.load(Relaxed)),
            (&self.hangs, counters.hangs.load(Relaxed)),
            (&self.child_panics, counters.child_panics.load(Relaxed)),
        ] {
            let counter = counter.with_label_values(service);
            counter.inc_by(value.saturating_sub(counter.get()));
        }
    }

    fn parts(&self) -> [&dyn Collector; 10] {
        [
            &self.state,
            &self.generation,
            &self.in_flight,
            &self.bound,
            &self.temporary_children,
            &self.restarts,
            &self.panics,
            &self.hangs,
            &self.child_panics,
            &self.leaked_threads,
        ]
    }
}

impl Collector for TreeMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.brood.visit(&mut |cell| self.read(cell));
        let leaked = self.tree.hosts.leaked.load(Relaxed);
        self.leaked_threads.inc_by(leaked.saturating_sub(self.leaked_threads.get()));
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}
