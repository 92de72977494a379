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

mod bus_in_place {
    //! The bus whose records are the rows of a store.
    use std::sync::Arc;

    use async_trait::async_trait;
    use soma_contract::{
        bus_suite,
        testing::{
            FakeBus, FakeClock, FakeStore,
            suite::bus::{BusFactory, BusWorld},
        },
    };

    #[derive(Debug)]
    struct InPlace;

    #[async_trait]
    impl BusFactory for InPlace {
        async fn fresh(&self) -> BusWorld {
            let store = Arc::new(FakeStore::new(Arc::new(FakeClock::new())));
            BusWorld { bus: Arc::new(FakeBus::new(Arc::clone(&store))), store }
        }
    }

    bus_suite!(InPlace);
}

mod bus_with_a_log {
    //! The bus that keeps a log.
    use std::sync::Arc;

    use async_trait::async_trait;
    use soma_contract::{
        bus_suite,
        testing::{
            FakeClock, FakeStore, LogBus,
            suite::bus::{BusFactory, BusWorld},
        },
    };

    #[derive(Debug)]
    struct Log;

    #[async_trait]
    impl BusFactory for Log {
        async fn fresh(&self) -> BusWorld {
            let store = Arc::new(FakeStore::with_remote_bus(Arc::new(FakeClock::new())));
            BusWorld { bus: Arc::new(LogBus::new()), store }
        }
    }

    bus_suite!(Log);
}

mod live {
    //! The live port within the process.
    use std::{sync::Arc, time::Duration};

    use async_trait::async_trait;
    use soma_contract::{
        live_suite,
        port::live::Live,
        testing::{FakeClock, FakeLive, suite::live::LiveFactory},
    };

    #[derive(Debug, Default)]
    struct Fakes {
        clock: Arc<FakeClock>,
    }

    #[async_trait]
    impl LiveFactory for Fakes {
        async fn fresh(&self) -> Arc<dyn Live> {
            Arc::new(FakeLive::new(Arc::<FakeClock>::clone(&self.clock)))
        }

        async fn pass(&self, time: Duration) {
            self.clock.advance(time);
        }
    }

    live_suite!(Fakes::default());
}

mod policy {
    //! The policy that is a closure.
    use std::sync::Arc;

    use async_trait::async_trait;
    use soma_contract::{
        policy_suite,
        port::policy::Policy,
        testing::{
            FakePolicy,
            suite::policy::{PolicyFactory, same_as_rego},
        },
    };

    #[derive(Debug)]
    struct Fakes;

    #[async_trait]
    impl PolicyFactory for Fakes {
        async fn deciding(&self) -> Arc<dyn Policy> {
            Arc::new(FakePolicy::new(|input| Ok(same_as_rego(input))))
        }

        async fn without_answer(&self) -> Arc<dyn Policy> {
            Arc::new(FakePolicy::unreachable())
        }
    }

    policy_suite!(Fakes);
}

mod memory {
    //! The memory service in a map.
    use std::sync::Arc;

    use async_trait::async_trait;
    use soma_contract::{
        memory_suite,
        testing::{
            FakeClock, FakeMemory, FakeStore,
            suite::memory::{MemoryFactory, MemoryWorld},
        },
    };

    #[derive(Debug)]
    struct Fakes;

    #[async_trait]
    impl MemoryFactory for Fakes {
        async fn fresh(&self) -> MemoryWorld {
            let store = Arc::new(FakeStore::new(Arc::new(FakeClock::new())));
            MemoryWorld { service: Arc::new(FakeMemory::new()), store }
        }
    }

    memory_suite!(Fakes);
}
