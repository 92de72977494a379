//! What the health monitor and the metrics tell.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use soma_runtime::{
    Health, HealthStatus, Orchestrator, Registry, Service, ServiceState, Settings, Spec,
};

use crate::support::{FOREVER, Victim, launch_here, paused, until};

struct Moody(Arc<AtomicBool>);

impl Service for Moody {
    fn health(&self) -> Health {
        if self.0.load(Ordering::SeqCst) { Health::degraded("no bus") } else { Health::ok() }
    }
}

#[test]
fn a_service_that_is_unwell_is_degraded_within_two_seconds_and_recovers() {
    paused(async {
        let unwell = Arc::new(AtomicBool::new(false));
        let mood = Arc::clone(&unwell);
        let spec = Spec::new("moody", move || Moody(Arc::clone(&mood)));
        let running = launch_here([spec.into()]).await.unwrap();
        let mut events = running.events();
        unwell.store(true, Ordering::SeqCst);
        until(&mut events, "moody", ServiceState::Degraded).await;
        let snapshot = running.health().snapshot();
        assert_eq!(snapshot.status, HealthStatus::Degraded);
        let moody = &snapshot.components["moody"];
        assert_eq!(moody.status, HealthStatus::Degraded);
        assert_eq!(moody.last_error.as_deref(), Some("no bus"));
        unwell.store(false, Ordering::SeqCst);
        until(&mut events, "moody", ServiceState::Ready).await;
        let snapshot = running.health().snapshot();
        assert_eq!(snapshot.status, HealthStatus::Ok);
        assert_eq!(snapshot.components["moody"].last_error.as_deref(), Some("no bus"));
        running.stop(FOREVER).await;
    });
}

#[test]
fn a_port_is_a_component_and_its_probe_may_panic_or_never_come_back() {
    paused(async {
        let running = launch_here([Spec::new("victim", Victim::default).into()]).await.unwrap();
        running.health().register("bus", || async { Health::down("connection refused") });
        running.health().register("store", || async { panic!("probe") });
        running.health().register("live", std::future::pending::<Health>);
        running.health().probe().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let snapshot = running.health().snapshot();
        assert_eq!(snapshot.status, HealthStatus::Degraded, "{snapshot:?}");
        assert_eq!(snapshot.components["bus"].status, HealthStatus::Down);
        assert_eq!(snapshot.components["store"].status, HealthStatus::Down);
        assert_eq!(snapshot.components["live"].status, HealthStatus::Degraded);
        assert_eq!(snapshot.components["victim"].status, HealthStatus::Ok);
        running.stop(FOREVER).await;
        let snapshot = running.health().snapshot();
        assert_eq!(snapshot.components["victim"].status, HealthStatus::Down);
    });
}

#[test]
fn the_tree_is_told_as_metrics() {
    paused(async {
        let settings = Settings::testing().unwrap();
        let metrics = settings.metrics.clone();
        let spec = Spec::new("victim", Victim::default);
        let link = spec.link();
        let running = Orchestrator::launch(Registry::default().with(spec), settings).await.unwrap();
        let mut events = running.events();
        // The first restart is at once, the second after a delay.
        for _ in 0..2 {
            link.inject(soma_runtime::Fault::Panic);
            until(&mut events, "victim", ServiceState::Ready).await;
        }
        let text = prometheus::TextEncoder::new().encode_to_string(&metrics.gather()).unwrap();
        for line in [
            "soma_service_state{service=\"victim\",state=\"ready\"} 1",
            "soma_service_state{service=\"victim\",state=\"failed\"} 0",
            "soma_service_generation{service=\"victim\"} 3",
            "soma_service_panics_total{service=\"victim\"} 2",
            "soma_service_restarts_total{service=\"victim\"} 2",
            "soma_leaked_threads_total 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        running.stop(FOREVER).await;
    });
}
