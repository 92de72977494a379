//! The three workers as the system runs them: under their supervisor.

use std::time::Duration;

use soma_contract::{
    EventId, Ids,
    port::store::{Memories, Registry as _},
    testing::{sample, store::Fault},
    topic::Topic,
};
use soma_runtime::{Orchestrator, Registry, Running, Settings, Spec};
use uuid::Uuid;

use crate::{
    MemoryConfig, MemoryNudges, UNIFIED_MEMORY, children,
    testing::{World, metrics, session},
};

async fn launch(world: &World, nudges: &MemoryNudges) -> Running {
    let workers = children(&world.ports(), MemoryConfig::default(), &metrics(), nudges);
    let memory = Spec::supervisor(UNIFIED_MEMORY, workers).critical(true);
    let settings = Settings::testing().unwrap();
    Orchestrator::launch(Registry::new([memory.into()]), settings).await.unwrap()
}

/// Waits until nothing waits in the store.
async fn settled(world: &World) {
    let mut changes = world.store.changes();
    loop {
        let depths = world.store.depths().await.unwrap();
        if (depths.outbox, depths.memory_writes) == (0, 0) {
            return;
        }
        changes.mark_unchanged();
        changes.changed().await.unwrap();
    }
}

#[test]
fn what_waits_is_carried_while_the_tree_lives_and_when_the_store_stumbles() {
    actix_rt::System::new().block_on(async {
        let world = World::new();
        for method in ["hold_shards", "outbox", "pending_writes", "settle_writes", "delivered"] {
            world.store.fail_next(method, Fault::Unavailable);
        }
        let nudges = MemoryNudges::default();
        let running = launch(&world, &nudges).await;
        let event = world.accept(session(1), "hi").await;
        let write = sample::put(Uuid::from_u128(1), EventId(world.ids.draw()), "tea");
        world.store.write_memories(vec![write]).await.unwrap();
        nudges.outbox.wake();
        nudges.writes.wake();
        settled(&world).await;
        let inbound = world.bus.log(Topic::ConversationInbound);
        assert!(inbound.iter().all(|record| record.event_id() == Some(event.0)));
        assert!(!inbound.is_empty());
        assert_eq!(world.memory.delivered().last().unwrap().0.memory.content, "tea");
        let report = running.stop(Duration::from_mins(5)).await;
        assert_eq!(report.exit_code(), 0);
    });
}
