//! Ten thousand supervised services.

use soma_runtime::{Entry, Fault, Orchestrator, Placement, Registry, ServiceState, Spec};

use crate::support::{Count, FOREVER, Victim, threads, until};

const MANY: usize = 10_000;

#[actix_rt::test]
async fn ten_thousand_services_start_answer_restart_and_stop() {
    let mut links = Vec::new();
    let specs: Vec<Entry> = (0..MANY)
        .map(|number| {
            let spec = Spec::new(format!("service-{number}"), Victim::default)
                .placement(Placement::Shared);
            links.push(spec.link());
            spec.into()
        })
        .collect();
    let running = Orchestrator::launch(Registry::new(specs), threads()).await.unwrap();
    running.health().probe_services().await;
    for link in &links {
        assert_eq!(link.outlet().send(Count).await, Ok(1));
    }
    let mut events = running.events();
    let last = links.last().unwrap();
    last.inject(Fault::Panic);
    until(&mut events, last.name(), ServiceState::Ready).await;
    assert_eq!(last.outlet().send(Count).await, Ok(1));
    let report = running.stop(FOREVER).await;
    assert!(report.is_clean());
    assert_eq!(report.services.len(), MANY);
}
