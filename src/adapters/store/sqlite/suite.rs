//! The port's own suite, on a real file.

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
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::{Options, SqliteStore};

#[derive(Debug)]
struct Files {
    dir: TempDir,
    clock: Arc<FakeClock>,
    opened: Mutex<Option<Arc<SqliteStore>>>,
}

impl Files {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: Arc::default(), opened: Mutex::default() }
    }

    async fn open(&self, bus_is_local: bool) -> Arc<dyn Store> {
        let options = Options { bus_is_local, ..Options::default() };
        let clock = Arc::<FakeClock>::clone(&self.clock);
        let opened = SqliteStore::open(self.dir.path(), options, &Handle::current(), clock).await;
        let store = Arc::new(opened.unwrap());
        *self.opened.lock().unwrap() = Some(Arc::clone(&store));
        store
    }
}

#[async_trait]
impl StoreFactory for Files {
    async fn fresh(&self, bus_is_local: bool) -> Arc<dyn Store> {
        self.open(bus_is_local).await
    }

    async fn reopen_after_crash(&self, _store: Arc<dyn Store>) -> Arc<dyn Store> {
        // Nothing is closed in order: only the lock goes, as the system would take it.
        if let Some(dead) = self.opened.lock().unwrap().take() {
            dead.lock.release();
        }
        self.open(true).await
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
}

store_suite!(Files::new());
