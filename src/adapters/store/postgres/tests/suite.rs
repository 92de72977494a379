//! The port's own suite.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use soma_contract::{
    port::store::Store,
    store_suite,
    testing::{FakeClock, suite::store::StoreFactory},
};
use tokio::{runtime::Handle, sync::OnceCell};

use super::{super::PostgresStore, database::Database};

#[derive(Debug, Default)]
struct Databases {
    database: OnceCell<Database>,
    clock: Arc<FakeClock>,
    opened: Mutex<Option<Arc<PostgresStore>>>,
}

impl Databases {
    async fn open(&self, bus_is_local: bool) -> Arc<dyn Store> {
        let database = self.database.get_or_init(Database::migrated).await;
        let clock = Arc::<FakeClock>::clone(&self.clock);
        let options = database.options(bus_is_local);
        let opened = PostgresStore::connect(options, &Handle::current(), clock).await;
        let store = Arc::new(opened.unwrap());
        *self.opened.lock().unwrap() = Some(Arc::clone(&store));
        store
    }
}

#[async_trait]
impl StoreFactory for Databases {
    async fn fresh(&self, bus_is_local: bool) -> Arc<dyn Store> {
        self.open(bus_is_local).await
    }

    async fn reopen_after_crash(&self, _store: Arc<dyn Store>) -> Arc<dyn Store> {
        // Nothing is closed in order: only the lock goes, as the server would take it.
        if let Some(dead) = self.opened.lock().unwrap().take() {
            dead.engine.ownership.release();
        }
        self.open(true).await
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
}

store_suite!(Databases::default());
