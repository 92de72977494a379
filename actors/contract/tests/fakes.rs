//! The fakes pass the suites of their ports.

mod store {
    //! The store in memory.
    use std::{sync::Arc, time::Duration};

    use async_trait::async_trait;
    use soma_contract::{
        port::store::Store,
        store_suite,
        testing::{FakeClock, FakeStore, suite::store::StoreFactory},
    };

    #[derive(Debug, Default)]
    struct Fakes {
        clock: Arc<FakeClock>,
    }

    #[async_trait]
    impl StoreFactory for Fakes {
        async fn fresh(&self, bus_is_local: bool) -> Arc<dyn Store> {
            let clock = Arc::<FakeClock>::clone(&self.clock);
            Arc::new(if bus_is_local {
                FakeStore::new(clock)
            } else {
                FakeStore::with_remote_bus(clock)
            })
        }

        async fn reopen_after_crash(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
            // What a store in memory keeps outlives only its owner.
            store
        }

        async fn advance(&self, by: Duration) {
            self.clock.advance(by);
        }
    }

    store_suite!(Fakes::default());
}
